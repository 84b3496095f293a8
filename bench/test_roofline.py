"""Why is the fused score no faster? The bare product, the floor by flops, the exponentials, and every stage's time."""

from __future__ import annotations

import pytest

from bench.cases import CASES, SMALL_CASES
from bench.roofline import MEASURED_DTYPES, MODES, measure
from gloria_ops.backends import cpu


@pytest.fixture(autouse=True)
def _only_the_cpu_backend_has_stages(backend):
    if backend != "cpu":
        pytest.skip(f"backend {backend!r} does not tell its stages")


@pytest.mark.measured
@pytest.mark.parametrize("number", range(len(CASES)), ids=[f"{case.name}-{case.preset}" for case in CASES])
def test_full_size(number, rows):
    rows.setdefault("roofline", []).extend(measure(CASES[number], rounds=5))


@pytest.mark.checked
@pytest.mark.parametrize("case", SMALL_CASES, ids=lambda case: case.preset)
def test_every_dtype_and_mode_has_a_row_whose_parts_add_up(case):
    measured = measure(case, rounds=2)
    assert [(row["dtype"], row["mode"]) for row in measured] == [(d, m) for d in MEASURED_DTYPES for m in MODES]
    for row in measured:
        assert list(row["stages_ms"]) == cpu._C.STAGES
        assert row["stages_ms"]["affinity"] > 0
        assert (row["stages_ms"]["gradient of words"] > 0) == (row["mode"] == "full")
        assert row["ms"] == pytest.approx(row["floor_ms"] + row["exponential_ms"] + row["left_ms"])
        assert row["ms"] == pytest.approx(sum(row["stages_ms"].values()) + row["outside_ms"])
        assert min(row["ms"], row["bare_ms"], row["per_bare"], row["limit_ms"], row["exponential_ns"]) > 0
        assert len(row["rounds_ms"]) == 2
