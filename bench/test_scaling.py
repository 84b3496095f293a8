"""Does a batch of 512 run at the rate of the released batch of 48? One step of the loss in float32, for minutes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.cases import CASES, SMALL_CASES
from bench.scaling import measure


@pytest.mark.measured
def test_full_size(backend, rows):
    rows.setdefault("scaling", []).extend(measure([CASES[0], replace(CASES[0], batch=512)], backend=backend))


@pytest.mark.checked
def test_every_batch_has_a_row_beside_the_first(backend):
    cases = [SMALL_CASES[0], replace(SMALL_CASES[0], batch=5)]
    first, second = measure(cases, backend=backend, share=0.0)
    assert (first["batch"], second["batch"]) == (3, 5)
    assert first["per_first"] == 1
    for case, row in zip(cases, (first, second), strict=True):
        assert row["gflops"] == pytest.approx(case.flops("full") / row["ms"] / 1e6)
    assert second["per_first"] == pytest.approx(second["gflops"] / first["gflops"])
