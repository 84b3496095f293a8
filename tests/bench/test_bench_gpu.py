"""The GPU benchmark's report and the steps of `make gpu-check`, as far as they go without a GPU."""

import subprocess
import sys

import pytest
import torch

pytest.importorskip("triton")

from bench import gpu, gpu_check

CASE = gpu.CASES[0]
MACHINE = {"gpu": "NVIDIA X1", "capability": "sm_90", "torch": "2.11", "triton": "3.6"}


def row(contender, mode, ms, **more):
    taken = {"ms": ms, "tflops": 100.0, "percent_of_rate": 25.0, "peak_extra_bytes": 3 << 20, "columns_used": 0.9}
    return {**CASE.label, "contender": contender, "mode": mode, **taken, **more}


def report_of(rows):
    return gpu.report(
        {"machine": MACHINE, "commit": "abc", "rates": {"bf16_tflops": 400, "copy_tbps": 3}, "rows": rows}
    )


def test_the_report_has_a_ratio_for_each_peer_and_marks_where_it_wins():
    rows = [row("fused", "forward", 2.0), row("bare", "forward", 1.0), row("chunked", "forward", 1.0)]
    rows += [row("loop", "forward", 50.0), {**CASE.label, "contender": "eager", "left_out": "does not fit"}]
    (line,) = [line for line in report_of(rows).splitlines() if "| forward" in line]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[2:9] == ["forward", "2.00", "100", "25", "2.00", "90", "3"]
    assert cells[9:] == ["-", "**0.50**", "25.00", "-", "does not fit", "-", "-"]
    assert "400 TFLOP/s in bf16" in report_of(rows)


def test_a_case_without_time_says_so():
    lines = report_of([{**CASE.label, "contender": "fused", "left_out": "no time was left"}])
    assert "no time was left" in lines


def test_large_batches_are_not_given_to_peers_that_grow_with_their_square():
    large = next(case for case in gpu.CASES if case.batch == 4096)
    assert set(gpu.builders(large)) == {"fused", "chunked", "bare"}
    # The CUDA kernels are a peer where they can run.
    assert {*gpu.PEERS} - {gpu.CUDA} <= set(gpu.builders(CASE))


@pytest.mark.parametrize("preset", ["released", "paper"])
def test_the_bare_product_is_that_of_all_words_and_regions(preset):
    case = gpu.Case("quick", batch=3, side=4, width=24, preset=preset)
    contender = gpu.bare(case, gpu.make_inputs(case))
    expected = contender.regions.flatten(0, 1) @ contender.words.T
    torch.testing.assert_close(contender.scores(*contender.leaves), expected)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_check_says_so(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "bench.gpu_check", "--out", str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "needs a CUDA device" in done.stdout
    assert (tmp_path / "doctor.log").read_text()


def test_a_step_tells_how_it_ended(tmp_path):
    ran = [
        gpu_check.run("good", [sys.executable, "-c", "print('a'); print('b')"], tmp_path, 30),
        gpu_check.run("bad", [sys.executable, "-c", "raise SystemExit(3)"], tmp_path, 30),
        gpu_check.run("slow", [sys.executable, "-c", "import time; time.sleep(60)"], tmp_path, 0.5),
        {"step": "absent", "status": None, "seconds": 0.0, "last_line": ""},
    ]
    assert [step["status"] for step in ran] == [0, 3, 124, None]
    lines = gpu_check.summary(ran).splitlines()
    assert [line.split()[1] for line in lines[1:]] == ["passed", "FAILED", "OUT", "not"]
    assert lines[1].endswith("b")
