"""The table of block sizes: what ships is complete, files are checked, and tuning steps to what is faster."""

import pytest
import torch

pytest.importorskip("triton")

from gloria_ops import LocalScore, tune
from gloria_ops.backends.triton import settings
from gloria_ops.backends.triton.settings import Blocks, Choice

RELEASED = LocalScore.released()
SMALL = Choice(Blocks(64, 64, 16, 4, 2), Blocks(64, 64, 16, 4, 2), Blocks(64, 64, 16, 4, 2), 1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize(
    "score", [RELEASED, LocalScore.paper(0.1, 0.1), LocalScore.maxsim()], ids=lambda each: each.pool
)
def test_every_gpu_from_ampere_on_has_a_row(score, dtype):
    chosen = [settings.chosen(major, dtype, score) for major in (8, 9, 10, 12)]
    assert chosen[2] == chosen[3]
    assert all(choice.misfit() is None for choice in chosen)


def test_a_written_table_is_read_again_and_used(tmp_path, monkeypatch):
    table = dict(settings.read(settings.SHIPPED))
    table[9, 16, "softmax"] = SMALL
    settings.write(tmp_path / "mine.json", table)
    monkeypatch.setenv(settings.VARIABLE, str(tmp_path / "mine.json"))
    assert settings.chosen(9, torch.bfloat16, RELEASED) == SMALL
    assert settings.chosen(9, torch.bfloat16, LocalScore.scan_t2i()) == table[9, 16, "other"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing", "is no table of blocks"),
        ('[{"capability": 9}]', "is no table of blocks"),
        (None, "is no table of blocks"),
    ],
)
def test_another_file_is_refused(text, message, tmp_path):
    if text is not None:
        (tmp_path / "blocks.json").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        settings.read(tmp_path / "blocks.json")
    assert "expected what `python -m gloria_ops.tune` writes" in str(error.value)


@pytest.mark.parametrize(
    ("kernel", "change", "message"),
    [
        ("forward", {"rows": 48}, "every size must be a power of two"),
        ("gradient", {"columns": 32}, "forward and gradient must share their columns"),
        ("gradient", {"step": 128}, "the rows of forward must be a multiple of the step of gradient"),
        ("product", {"step": 128}, "the rows of gradient must be a multiple of the step of product"),
    ],
)
def test_blocks_that_the_kernels_cannot_run_with_are_refused(kernel, change, message, tmp_path):
    wrong = SMALL._replace(**{kernel: getattr(SMALL, kernel)._replace(**change)})
    settings.write(tmp_path / "blocks.json", {(9, 16, "softmax"): wrong})
    with pytest.raises(ValueError, match=message):
        settings.read(tmp_path / "blocks.json")


@pytest.mark.parametrize("kernel", settings.KERNELS)
def test_neighbours_differ_in_one_kernel_and_fit(kernel):
    others = list(tune.neighbours(SMALL, kernel))
    assert others
    for other in others:
        assert other.misfit() is None
        assert other != SMALL
        for unchanged in {*settings.KERNELS} - {kernel, "gradient"}:
            assert getattr(other, unchanged) == getattr(SMALL, unchanged)


def test_tuning_descends_to_what_is_fastest_and_stops_at_noise():
    def milliseconds(choice: Choice) -> float:
        return abs(choice.product.rows - 128) + abs(choice.product.step - 32) + 1 + 0.001 * choice.product.stages

    lines: list[str] = []
    found = tune.faster(SMALL, "product", milliseconds, lines.append)
    assert (found.product.rows, found.product.step) == (128, 32)
    assert found.product.stages == SMALL.product.stages
    assert len(lines) == 3
