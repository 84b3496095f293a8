"""The table of block sizes: what ships is complete, files are checked, and tuning steps to what is faster."""

import pytest
import torch

pytest.importorskip("triton")

from gloria_ops import LocalScore, tune
from gloria_ops.backends.triton import block_sizes
from gloria_ops.backends.triton.block_sizes import Blocks, Choice, Elementwise

RELEASED = LocalScore.released()
SMALL = Choice("split", 256, 8, *[Blocks(64, 64, 16, 4, 2)] * 5, *[Elementwise(8, 64, 2)] * 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize(
    "score", [RELEASED, LocalScore.paper(0.1, 0.1), LocalScore.maxsim()], ids=lambda each: each.pool
)
def test_every_gpu_from_ampere_on_has_a_row(score, dtype):
    chosen = [block_sizes.chosen(capability, dtype, score) for capability in (80, 86, 89, 90, 100, 103, 120, 121)]
    assert chosen[1] == chosen[2]
    assert chosen[4] == chosen[5]
    assert all(choice.misfit(block_sizes.kind(score)) is None for choice in chosen)


def test_a_written_table_is_read_again_and_used(tmp_path, monkeypatch):
    table = dict(block_sizes.read(block_sizes.SHIPPED))
    table[90, 16, "normed"] = SMALL
    block_sizes.write(tmp_path / "mine.json", table)
    monkeypatch.setenv(block_sizes.VARIABLE, str(tmp_path / "mine.json"))
    assert block_sizes.chosen(90, torch.bfloat16, RELEASED) == SMALL
    assert block_sizes.chosen(90, torch.bfloat16, LocalScore.maxsim()) == table[90, 16, "plain"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing", "is not a table of block sizes"),
        ('[{"capability": 90}]', "is not a table of block sizes"),
        (None, "is not a table of block sizes"),
    ],
)
def test_another_file_is_refused(text, message, tmp_path):
    if text is not None:
        (tmp_path / "block_sizes.json").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        block_sizes.read(tmp_path / "block_sizes.json")
    assert "expected what `python -m gloria_ops.tune` writes" in str(error.value)


@pytest.mark.parametrize(
    ("kernel", "change", "message"),
    [
        ("product", {"rows": 512}, "every size must be a power of two"),
        ("product", {"rows": 48}, "rows that are no power of two need tensor descriptors"),
        ("fused", {"rows": 96, "described": True}, "the rows of fused must be a power of two"),
        ("square", {"described": True}, "square and gram read no tensor descriptors"),
        ("fused", {"columns": 16}, "the columns of a product must be at least 32"),
        ("gram", {"columns": 32}, "gram and square must share their columns"),
        ("square", {"step": 128}, "no step may exceed 64"),
        ("attention", {"words": 3}, "the words of an elementwise kernel must be a power of two"),
    ],
)
def test_blocks_that_the_kernels_cannot_run_with_are_refused(kernel, change, message, tmp_path):
    wrong = SMALL._replace(**{kernel: getattr(SMALL, kernel)._replace(**change)})
    block_sizes.write(tmp_path / "block_sizes.json", {(90, 16, "normed"): wrong})
    with pytest.raises(ValueError, match=message):
        block_sizes.read(tmp_path / "block_sizes.json")


def test_one_kernel_for_all_is_for_scores_without_a_norm_over_words(tmp_path):
    fused = SMALL._replace(way="fused")
    block_sizes.write(tmp_path / "right.json", {(90, 16, "plain"): fused})
    assert block_sizes.read(tmp_path / "right.json")[90, 16, "plain"] == fused
    block_sizes.write(tmp_path / "wrong.json", {(90, 16, "normed"): fused})
    with pytest.raises(ValueError, match="way='fused' is for scores of the kind 'plain' only"):
        block_sizes.read(tmp_path / "wrong.json")


def test_rows_of_two_parts_are_those_of_their_powers_of_two():
    assert (Blocks(192, 256, 64, 8, 3, True).main, Blocks(192, 256, 64, 8, 3, True).tail) == (128, 64)
    assert (Blocks(128, 256, 64, 8, 3).main, Blocks(128, 256, 64, 8, 3).tail) == (128, 0)
    described = Blocks(192, 256, 64, 8, 3, True)
    assert SMALL._replace(product=described, regions=described).misfit("normed") is None


@pytest.mark.parametrize("name", [*block_sizes.PRODUCTS, *block_sizes.ELEMENTWISE])
def test_neighbors_differ_in_one_kernel_and_fit(name):
    others = list(tune.neighbors(SMALL, name, "normed"))
    assert len(others) > 2
    for other in others:
        assert other.misfit("normed") is None
        assert getattr(other, name) != getattr(SMALL, name)
        together = {"square", "gram"} if name in ("square", "gram") else {name}
        for unchanged in {*block_sizes.PRODUCTS, *block_sizes.ELEMENTWISE} - together:
            assert getattr(other, unchanged) == getattr(SMALL, unchanged)


def test_only_plain_scores_have_another_way():
    assert [other.way for other in tune.neighbors(SMALL, "way", "plain")] == ["fused"]
    assert not list(tune.neighbors(SMALL, "way", "normed"))


def test_tuning_descends_to_what_is_fastest_and_stops_at_noise():
    def milliseconds(choice: Choice) -> float:
        return abs(choice.product.rows - 128) + abs(choice.product.step - 32) + 1 + 0.001 * choice.product.stages

    lines: list[str] = []
    found = tune.faster(SMALL, "product", "normed", milliseconds, lines.append)
    assert (found.product.rows, found.product.step) == (128, 32)
    assert found.product.stages == SMALL.product.stages
    assert len(lines) == 3
