"""Is a problem of a few words slower than vectorized eager PyTorch?"""

from __future__ import annotations

from bench.cases import SMALL_PROBLEM
from bench.small import MEASURED_DTYPES, MODES, measure


def test_every_dtype_and_mode_has_a_row(timed, backend, rows):
    measured = measure(SMALL_PROBLEM, backend=backend, rounds=10 if timed else 1)
    assert [(row["dtype"], row["mode"]) for row in measured] == [(d, m) for d in MEASURED_DTYPES for m in MODES]
    assert all(min(row["microseconds"], row["eager_microseconds"], row["per_fused"]) > 0 for row in measured)
    if timed:
        rows.setdefault("small", []).extend(measured)
