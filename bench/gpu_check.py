"""`make gpu-check`: the GPU tests, the sanitizer and the GPU benchmark, one after the other, in under nine minutes.

Uses the Python that runs it and what is installed there; nothing is downloaded. Leaves in --out a log of each step,
check.json with how each ended, and the benchmark's JSON; prints a short table last.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
# Seconds that a step may take; with the start of processes their sum stays below nine minutes.
DOCTOR, TESTS, SANITIZER, BENCH = 25, 200, 45, 240
SHARDS = 12


def main() -> None:
    """Entry point; the exit status is 1 where a step failed, and 2 where there is no GPU."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_check", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu-check"))
    out = parser.parse_args().out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    if not gpu_found(out):
        print("make gpu-check needs a CUDA device that torch can see; `python -m gloria_ops.doctor` says what there is")
        sys.exit(2)
    steps = [*tests(out), *sanitizer(out), bench(out)]
    (out / "check.json").write_text(json.dumps(steps, indent=1) + "\n", encoding="utf-8")
    print((out / "bench.log").read_text(encoding="utf-8"))
    print(summary(steps))
    sys.exit(any(step["status"] not in (0, None) for step in steps))


def run(name: str, command: list[str], out: Path, seconds: float, **environment: str) -> dict[str, Any]:
    """One step: its name, exit status (124 = out of time), seconds, and the last line that it printed."""
    began = time.monotonic()
    log = out / f"{name}.log"
    folders = [
        ROOT,
        ROOT / "tests",
        ROOT / "tests" / "triton",
        ROOT / "tests" / "cuda",
        os.environ.get("PYTHONPATH", ""),
    ]
    python = os.pathsep.join(map(str, folders))
    with log.open("w", encoding="utf-8") as file:
        try:
            status = subprocess.run(
                command, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, timeout=seconds, check=False,
                env=os.environ | {"PYTHONPATH": python} | environment,
            ).returncode  # fmt: skip
        except subprocess.TimeoutExpired:
            status = 124
    printed = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    taken = round(time.monotonic() - began, 1)
    return {"step": name, "status": status, "seconds": taken, "last_line": printed[-1] if printed else ""}


def gpu_found(out: Path) -> bool:
    """Whether torch sees a CUDA device; the doctor's report is the first log."""
    run("doctor", [sys.executable, "-m", "gloria_ops.doctor"], out, DOCTOR)
    code = "import torch; raise SystemExit(not torch.cuda.is_available())"
    return run("gpu", [sys.executable, "-c", code], out, DOCTOR)["status"] == 0


def tests(out: Path) -> list[dict[str, Any]]:
    """The GPU tests, shared among processes: most of their time is the compiling of kernels, on one core each."""
    options = ["-q", "--no-header", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options, "tests/triton/test_gpu.py"]
    with ThreadPoolExecutor(SHARDS + 1) as pool:
        shards = [
            pool.submit(run, f"tests-{shard}", command, out, TESTS, GLORIA_OPS_SHARD=f"{shard}/{SHARDS}")
            for shard in range(SHARDS)
        ]
        of_cuda = [*command[:-1], "-rs", "tests/cuda/test_cuda_gpu.py"]
        shards.append(pool.submit(run, "tests-cuda", of_cuda, out, TESTS))
        return [shard.result() for shard in shards]


def sanitizer(out: Path) -> list[dict[str, Any]]:
    """memcheck and racecheck of small problems, at once; a status of None where the tool is not installed."""
    tool = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    kinds = ("memcheck", "racecheck")
    if tool is None:
        absent = {"status": None, "seconds": 0.0, "last_line": "compute-sanitizer is not installed"}
        return [{"step": kind, **absent} for kind in kinds]
    script = [sys.executable, "tests/triton/sanitized.py"]
    with ThreadPoolExecutor(len(kinds)) as pool:
        # torch's caching allocator would hide what is beyond an allocation.
        environment = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        steps = []
        for kind in kinds:
            command = [tool, "--tool", kind, "--error-exitcode", "1", *script]
            steps.append(pool.submit(run, kind, command, out, SANITIZER, **environment))
        return [step.result() for step in steps]


def bench(out: Path) -> dict[str, Any]:
    """The benchmark begins no case after two thirds of its time, so that it ends by itself."""
    command = [sys.executable, "-m", "bench.gpu", "--out", str(out), "--seconds", str(BENCH * 2 / 3)]
    return run("bench", command, out, BENCH)


def summary(steps: list[dict[str, Any]]) -> str:
    """A line for each step."""
    ended = {0: "passed", 124: "OUT OF TIME", None: "not run"}
    lines = [f"{'step':<12}{'result':<13}{'s':>7}  last line"]
    for step in steps:
        result = ended.get(step["status"], "FAILED")
        lines.append(f"{step['step']:<12}{result:<13}{step['seconds']:>7}  {step['last_line'][:90]}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
