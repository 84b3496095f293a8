"""The step of `make gpu-check` that times every kernel alone, interpreted, with a clock that is none."""

import itertools
import json

from bench import gpu_constants, gpu_stages
from bench.cases import Case
from gloria_ops.backends.triton import block_sizes
from gloria_ops.backends.triton.block_sizes import Blocks, Elementwise

CASES = tuple(Case("quick", batch=2, side=3, width=24, preset=preset, words_each=5) for preset in ("released", "paper"))
SMALL, WIDE, ROWS = Blocks(32, 64, 16, 4, 1), Blocks(32, 128, 16, 4, 1), Elementwise(16, 128, 1)
OTHER = dict.fromkeys(("square", "gram"), (WIDE,)) | dict.fromkeys(("product", "regions", "fused"), (SMALL,))
OTHER |= dict.fromkeys(("attention", "gradient"), (ROWS,))


def test_every_kernel_is_timed_and_the_fastest_blocks_are_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu_stages, "VARIANTS", OTHER)
    monkeypatch.setattr(gpu_stages, "ROUNDS", 2)
    ticks = itertools.count(100, -1)

    def timer(step):
        """Later calls seem faster, so that the variant that comes last wins."""
        step()
        return float(next(ticks))

    gpu_stages.run(tmp_path, 600.0, 90, None, CASES, "cpu", timer)
    rows = json.loads((tmp_path / "stages.json").read_text())
    kernels = {name for names in gpu_stages.KERNELS.values() for name in names}
    assert {row["kernel"] for row in rows} == kernels
    assert all(row["measured"] > 0 and row["launches"] == 1 for row in rows)
    table = block_sizes.read(tmp_path / "block_sizes.json")
    shipped = block_sizes.read(block_sizes.SHIPPED)
    for kind in ("normed", "plain"):
        found = table[90, 16, kind]
        assert found.product == SMALL
        assert found.way == shipped[90, 16, kind].way
    assert {key: choice for key, choice in table.items() if key[0] != 90 or key[1] != 16} == {
        key: choice for key, choice in shipped.items() if key[0] != 90 or key[1] != 16
    }
    assert "affinity_kernel" in capsys.readouterr().out


def test_no_kernel_is_begun_when_time_is_up(tmp_path):
    gpu_stages.run(tmp_path, -1.0, 90, None, CASES, "cpu", lambda step: 1.0)
    assert not (tmp_path / "stages.json").exists()


def test_the_rates_are_those_of_the_sizes():
    found = gpu_constants.rates("cpu", lambda step, flush=True: step() is None or 2.0, scale=256)
    assert set(found) == {"bf16_tflops", "bf16_tflops_at_768", "copy_tbps", "cache_tbps"}
    assert found["bf16_tflops"] == 2 * 32 * 8192 * 32 / 2.0 / 1e9
