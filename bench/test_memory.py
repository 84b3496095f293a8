"""How much memory does forward+backward need beyond inputs, gradients and scores, and does it grow with the batch?"""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.cases import CASES, SMALL_CASES, Case
from bench.memory import measure_in_subprocess

BATCH_OF_32 = next(case for case in CASES if case.batch == 32)
LIMIT = 64 * 2**20


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("contender", ["fused", "loop", "eager"])
def test_full_size(contender, dtype, timed, backend, rows):
    if not timed:
        pytest.skip("full sizes run with --benchmark")
    small = _measure(BATCH_OF_32, contender, dtype, backend)
    large_case = replace(BATCH_OF_32, batch=128)
    if contender == "fused":
        large = _measure(large_case, contender, dtype, backend)
    else:
        # What a peer keeps grows with the square of the batch: most machines would not survive the measurement.
        predicted = small["extra_bytes"] * (large_case.batch // small["batch"]) ** 2
        why = f"not run: about {predicted / 2**30:.0f} GiB, from N = {small['batch']}"
        large = _label(large_case, contender, dtype) | {"left_out": why}
    rows.setdefault("memory", []).extend([small, large])
    if contender == "fused":
        assert max(small["extra_bytes"], large["extra_bytes"]) <= LIMIT


@pytest.mark.parametrize("contender", ["fused", "loop", "eager"])
def test_small_size_stays_within_the_limit(contender, timed, backend):
    if timed:
        pytest.skip("small sizes run without --benchmark")
    measured = _measure(SMALL_CASES[0], contender, "float32", backend)
    assert 0 <= measured["extra_bytes"] < LIMIT
    case = SMALL_CASES[0]
    values = case.batch * case.width * (case.regions + max(case.lengths)) + case.batch**2
    assert measured["result_bytes"] == 4 * values


def _measure(case: Case, contender: str, dtype: str, backend: str) -> dict:
    return _label(case, contender, dtype) | measure_in_subprocess(case, contender, dtype, backend=backend)


def _label(case: Case, contender: str, dtype: str) -> dict:
    return {"batch": case.batch, "preset": case.preset, "dtype": dtype, "contender": contender}
