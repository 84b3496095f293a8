"""Peak memory of one forward+backward beyond inputs, gradients and scores, measured in a process of its own (Linux)."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.cases import DTYPES, Case, make_inputs
from bench.peers import Builder, eager, fused, loop

THREADS = 2  # each has buffers of its own, so a figure holds for a number of them
MOST_OF_THREADS = 32 * 2**20


def allowed_bytes(case: Case) -> int:
    """What the fused score may take: some MiB for its threads, and a float32 sum of the word gradients.

    The sum is 4·ΣW·D bytes: every image adds to the gradient of every word, in either dtype in float32.
    """
    return MOST_OF_THREADS + 4 * sum(case.lengths) * case.width


def measure_in_subprocess(case: Case, contender: str, dtype: str, *, backend: str) -> dict[str, Any]:
    """`measure` in a fresh interpreter of `THREADS` threads; raises RuntimeError with its errors where it fails."""
    problem = {"case": vars(case), "contender": contender, "dtype": dtype, "backend": backend}
    command = [sys.executable, "-m", "bench.memory", json.dumps(problem)]
    environment = os.environ | {"OMP_NUM_THREADS": str(THREADS)}
    child = subprocess.run(command, cwd=Path(__file__).parents[1], env=environment, capture_output=True, text=True)
    if child.returncode:
        raise RuntimeError(f"memory of {contender} on {case}: status {child.returncode}\n{child.stderr}")
    measured: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    return measured


def measure(case: Case, contender: str, dtype: str, *, backend: str) -> dict[str, int]:
    """Peak extra bytes of `contender` in this process: the resident set's growth, less the scores and the gradients.

    A tiny problem of the same kind runs first, so that libraries, threads and lazily built modules are in memory before
    the count; what the C library holds free is given back, or the peak would hide in it. `compiled` is left out: its
    compiler would be counted.
    """
    builders: dict[str, Builder] = {"fused": partial(fused, backend=backend), "loop": loop, "eager": eager}
    build = builders[contender]
    _step(replace(case, batch=2, side=2), build, dtype)
    case_inputs = make_inputs(case).to(DTYPES[dtype])
    problem = build(case, case_inputs)
    grad_scores = case_inputs.grad_scores
    del case_inputs

    before = start_counting()
    scores = problem.scores(*problem.leaves)
    grads = torch.autograd.grad(scores, problem.leaves, grad_scores.to(scores.dtype))
    results = sum(tensor.nbytes for tensor in (scores, *grads))
    return {"extra_bytes": peak() - before - results, "result_bytes": results}


def start_counting() -> int:
    """Bytes that are resident now; the high-water mark starts again from there."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak() -> int:
    """Most bytes that were resident since `start_counting`."""
    return _status("VmHWM")


def _step(case: Case, build: Builder, dtype: str) -> None:
    inputs = make_inputs(case).to(DTYPES[dtype])
    contender = build(case, inputs)
    scores = contender.scores(*contender.leaves)
    torch.autograd.grad(scores, contender.leaves, inputs.grad_scores.to(scores.dtype))


def _status(field: str) -> int:
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(fields[field].split()[0])


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    print(json.dumps(measure(Case(**asked.pop("case")), **asked)))
