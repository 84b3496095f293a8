"""`make gpu-check`: nine minutes on a GPU that decide whether the kernels are right, and which of them are fast.

Uses the Python that runs it and what is installed there; nothing is downloaded. Steps run one after the other, each
with a time limit of its own: a first look at correctness, the card's rates, every kernel alone in several block sizes,
whole passes against every peer, then the rest of the tests and the sanitizers. Leaves in --out a log of each step,
check.json with how each ended (written again after each), what the steps measured, and block_sizes.json: committed in
place of the one in gloria_ops/backends/triton it ships what was fastest. Prints a short table last.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SHARDS = 8
# Seconds until torch is imported and the device is found.
DOCTOR = 25
PYTEST = ["-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider"]
GPU_TESTS = "tests/triton/test_gpu.py"
CUDA_TESTS = "tests/cuda/test_cuda_gpu.py"


@dataclass(frozen=True)
class Step:
    """A command of Python's with a limit in seconds; `shards` of it run at once, each told which it is."""

    name: str
    arguments: list[str]
    seconds: float
    shards: int = 1
    environment: dict[str, str] = field(default_factory=dict)
    program: str = sys.executable


def steps(out: Path) -> list[Step]:
    """In the order of what they decide; with the start of processes their limits stay below nine minutes."""
    found = [
        Step("first look", [*PYTEST, GPU_TESTS, "-k", "first_look"], 70),
        Step("constants", ["-m", "bench.gpu_constants", "--out", str(out)], 35),
        Step("stages", ["-m", "bench.gpu_stages", "--out", str(out), "--seconds", "105"], 140),
        # It begins no case after two thirds of its time, so that it ends by itself.
        Step("bench", ["-m", "bench.gpu", "--out", str(out), "--seconds", "73"], 110),
        Step("tests", [*PYTEST, "-rs", GPU_TESTS, CUDA_TESTS, "-k", "not first_look"], 85, shards=SHARDS),
    ]
    tool = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    # torch's caching allocator would hide what is beyond an allocation.
    environment = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    script = [sys.executable, "tests/triton/sanitized.py"]
    for kind in ("memcheck", "racecheck"):
        command = ["--tool", kind, "--error-exitcode", "1", *script]
        found.append(Step(kind, command, 25, environment=environment, program=tool or ""))
    return found


def main() -> None:
    """Entry point; the exit status is 1 where a step failed, and 2 where there is no GPU."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_check", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu-check"))
    out = parser.parse_args().out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    if not gpu_found(out):
        print("make gpu-check needs a CUDA device that torch can see; `python -m gloria_ops.doctor` says what there is")
        sys.exit(2)
    sys.exit(any(ended["status"] not in (0, None) for ended in run_all(steps(out), out)))


def run_all(all_steps: list[Step], out: Path) -> list[dict[str, Any]]:
    """Every step, whatever became of those before, and the table."""
    ended: list[dict[str, Any]] = []
    for step in all_steps:
        ended += run(step, out)
        (out / "check.json").write_text(json.dumps(ended, indent=1) + "\n", encoding="utf-8")
        print(summary(ended[-step.shards :]), flush=True)
    for name in ("stages", "bench"):
        log = out / f"{name}.log"
        print(log.read_text(encoding="utf-8", errors="replace") if log.exists() else f"no {log}")
    print(summary(ended))
    return ended


def run(step: Step, out: Path) -> list[dict[str, Any]]:
    """How each shard of a step ended; a status of None where its program is not installed."""
    if not step.program:
        absent = {"status": None, "seconds": 0.0, "last_line": "compute-sanitizer is not installed"}
        return [{"step": step.name, **absent}]
    with ThreadPoolExecutor(step.shards) as pool:
        shards = [pool.submit(_run, step, shard, out) for shard in range(step.shards)]
        return [shard.result() for shard in shards]


def _run(step: Step, shard: int, out: Path) -> dict[str, Any]:
    """One process: its exit status (124 = out of time), seconds, and the last line that it printed."""
    began = time.monotonic()
    name = step.name if step.shards == 1 else f"{step.name} {shard}"
    log = out / f"{name.replace(' ', '-')}.log"
    folders = [
        ROOT,
        ROOT / "tests",
        ROOT / "tests" / "triton",
        ROOT / "tests" / "cuda",
        os.environ.get("PYTHONPATH", ""),
    ]
    environment = {"PYTHONPATH": os.pathsep.join(map(str, folders)), "GLORIA_OPS_SHARD": f"{shard}/{step.shards}"}
    with log.open("w", encoding="utf-8") as file:
        # In a group of its own: what it has started ends with it.
        process = subprocess.Popen(
            [step.program, *step.arguments], stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, start_new_session=True,
            env=os.environ | environment | step.environment,
        )  # fmt: skip
        try:
            status = process.wait(step.seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            status = 124
    printed = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    taken = round(time.monotonic() - began, 1)
    return {"step": name, "status": status, "seconds": taken, "last_line": printed[-1] if printed else ""}


def gpu_found(out: Path) -> bool:
    """Whether torch sees a CUDA device; the doctor's report is the first log."""
    run(Step("doctor", ["-m", "gloria_ops.doctor"], DOCTOR), out)
    code = "import torch; raise SystemExit(not torch.cuda.is_available())"
    return run(Step("gpu", ["-c", code], DOCTOR), out)[0]["status"] == 0


def summary(ended: list[dict[str, Any]]) -> str:
    """A line for each step."""
    results = {0: "passed", 124: "OUT OF TIME", None: "not run"}
    lines = [f"{'step':<12}{'result':<13}{'s':>7}  last line"]
    for each in ended:
        result = results.get(each["status"], "FAILED")
        lines.append(f"{each['step']:<12}{result:<13}{each['seconds']:>7}  {each['last_line'][:90]}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
