"""How much memory does forward+backward need beyond inputs, gradients and scores, and does it grow with the batch?"""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.cases import CASES, DTYPES, SMALL_CASES, Case
from bench.memory import allowed_bytes, measure_in_subprocess
from bench.peers import does_not_fit, needed_bytes

LARGE = replace(CASES[0], batch=512)


@pytest.mark.measured
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("case", [CASES[0], LARGE], ids=lambda case: f"N={case.batch}")
def test_full_size(case, dtype, backend, rows):
    measured = _measure(case, "fused", dtype, backend)
    rows.setdefault("memory", []).append(measured)
    assert measured["extra_bytes"] <= allowed_bytes(case)


@pytest.mark.measured
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("contender", ["loop", "eager"])
def test_full_size_of_peers(contender, dtype, backend, rows):
    case = CASES[0]
    why = does_not_fit(contender, case, DTYPES[dtype])
    measured = _label(case, contender, dtype) | {"left_out": why} if why else _measure(case, contender, dtype, backend)
    # What a peer keeps grows with the square of the batch: most machines would not survive the measurement.
    base = measured.get("extra_bytes", needed_bytes(contender, case, DTYPES[dtype]))
    predicted = base * (LARGE.batch / case.batch) ** 2
    why = f"not run: about {predicted / 2**30:.0f} GiB, from N = {case.batch}"
    rows.setdefault("memory", []).extend([measured, _label(LARGE, contender, dtype) | {"left_out": why}])


@pytest.mark.checked
@pytest.mark.parametrize("contender", ["fused", "loop", "eager"])
def test_small_size_stays_within_the_limit(contender, backend):
    case = SMALL_CASES[0]
    measured = _measure(case, contender, "float32", backend)
    assert 0 <= measured["extra_bytes"] < allowed_bytes(case)
    values = case.batch * case.width * (case.regions + max(case.lengths)) + case.batch**2
    assert measured["result_bytes"] == 4 * values


def _measure(case: Case, contender: str, dtype: str, backend: str) -> dict:
    return _label(case, contender, dtype) | measure_in_subprocess(case, contender, dtype, backend=backend)


def _label(case: Case, contender: str, dtype: str) -> dict:
    return case.label | {"dtype": dtype, "contender": contender}
