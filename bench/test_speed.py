"""How fast are forward, backward and both, beside the loop, eager PyTorch, torch.compile and the bare product?"""

from __future__ import annotations

import pytest

from bench.cases import CASES, MODES, SMALL_CASES
from bench.speed import measure


@pytest.mark.measured
@pytest.mark.parametrize("number", range(len(CASES)), ids=[f"{case.name}-{case.preset}" for case in CASES])
def test_full_size(number, backend, rows):
    rows.setdefault("speed", []).extend(measure(CASES[number], backend=backend, rounds=5))


@pytest.mark.checked
@pytest.mark.parametrize("case", SMALL_CASES, ids=lambda case: case.preset)
def test_every_contender_and_mode_has_a_row(case, backend):
    measured = measure(case, backend=backend, dtypes=("float32",), rounds=2)
    peers = {(row["contender"], row["mode"]) for row in measured if not row["contender"].startswith("bare")}
    assert peers == {(name, mode) for name in ("fused", "loop", "eager", "compiled") for mode in MODES}
    assert sum(row["contender"].startswith("bare") for row in measured) == 1
    for row in measured:
        assert min(row["ms"], row["gflops"], row["percent_of_bare"]) > 0
        assert len(row["rounds_ms"]) == 2
