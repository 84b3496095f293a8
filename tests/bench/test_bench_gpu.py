"""The GPU benchmark's report and the steps of `make gpu-check`, as far as they go without a GPU."""

import importlib.util
import json
import runpy
import subprocess
import sys

import pytest
import torch

pytest.importorskip("triton")

from bench import gpu, gpu_check

CASE = gpu.CASES[0]
MACHINE = {"gpu": "NVIDIA X1", "capability": "sm_90", "torch": "2.11", "triton": "3.6"}


def row(contender, mode, ms, **more):
    taken = {"ms": ms, "tflops": 100.0, "percent_of_rate": 25.0, "peak_extra_bytes": 3 << 20}
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
    assert cells[2:8] == ["forward", "2.00", "100", "25", "2.00", "3"]
    assert cells[8:] == ["-", "**0.50**", "25.00", "-", "does not fit", "-", "-"]
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


def step(name, code, seconds=30.0, **more):
    return gpu_check.Step(name, ["-c", code], seconds, **more)


def test_steps_run_in_order_each_to_its_end_or_its_limit(tmp_path, capsys):
    """A step that fails and one that hangs, with a process that it started, end neither the run nor the record."""
    child = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    all_steps = [
        step("good", "print('a'); print('b')"),
        step("bad", "raise SystemExit(3)"),
        step("slow", f"{child}; print('began', flush=True); time.sleep(60)", 3.0),
        step("many", "import os; print(os.environ['GLORIA_OPS_SHARD'])", shards=2),
        step("absent", "", program=""),
        step("last", "import os; print(os.environ['MINE'])", environment={"MINE": "set"}),
    ]
    ended = gpu_check.run_all(all_steps, tmp_path)
    assert [each["status"] for each in ended] == [0, 3, 124, 0, 0, None, 0]
    assert [each["last_line"] for each in ended[3:5]] == ["0/2", "1/2"]
    assert ended == json.loads((tmp_path / "check.json").read_text())
    table = capsys.readouterr().out.splitlines()[-8:]
    assert [line.split()[0] for line in table[1:]] == ["good", "bad", "slow", "many", "many", "absent", "last"]
    assert "OUT OF TIME" in table[3]
    assert table[-1].endswith("set")


def test_what_ended_is_on_record_before_the_next_step_begins(tmp_path):
    reading = f"import json; print(len(json.load(open({str(tmp_path / 'check.json')!r}))))"
    ended = gpu_check.run_all([step("first", "raise SystemExit(1)"), step("second", reading)], tmp_path)
    assert ended[1]["last_line"] == "1"


def test_the_whole_check_stays_below_nine_minutes(tmp_path):
    """Correctness comes first, then what decides about speed; the limits leave time for starting processes."""
    all_steps = gpu_check.steps(tmp_path)
    names = [each.name for each in all_steps]
    assert names == ["first look", "constants", "stages", "bench", "tests", "memcheck", "racecheck"]
    assert sum(each.seconds for each in all_steps) + 2 * gpu_check.DOCTOR <= 540


@pytest.mark.parametrize("step_name", ["constants", "stages", "bench"])
def test_the_steps_know_their_arguments(step_name, tmp_path, monkeypatch, capsys):
    """As the command runs, but in this process, which has imported what they need."""
    ((flag, module, *arguments),) = [each.arguments for each in gpu_check.steps(tmp_path) if each.name == step_name]
    assert flag == "-m"
    program = importlib.util.find_spec(module).origin
    monkeypatch.setattr(sys, "argv", [program, *arguments, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(program, run_name="__main__")
    assert ended.value.code == 0
    assert "--out" in capsys.readouterr().out
