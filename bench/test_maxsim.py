"""Is late interaction faster than eager PyTorch and its peers, in both directions, and re-ranking than before?"""

from __future__ import annotations

import pytest
import torch

from bench.maxsim import CASES, SMALL_CASES, measure, rerank_steps, steps


@pytest.mark.measured
def test_full_size(backend, rows):
    rows.setdefault("maxsim", []).extend(measure(CASES, backend=backend, rounds=9, texts=20_000, pairs=1000))


@pytest.mark.checked
def test_every_contender_has_a_row(backend):
    measured = measure(SMALL_CASES, backend=backend, rounds=2, texts=30, pairs=7)
    assert [row["contender"] for row in measured] == [
        *("fused", "eager", "sentence-transformers", "its drop-in"),
        *("fused", "eager", "maxsim-cpu"),
        *("chosen pairs", "gathered"),
    ]
    for row in measured:
        assert row.get("left_out") == "not installed" or min(row["ms"], row["per_fused"]) > 0


@pytest.mark.parametrize("case", SMALL_CASES, ids=lambda case: f"{case.queries}x{case.documents}")
def test_every_contender_finds_the_same(case, backend):
    found = {name: step() for name, step in steps(case, backend).items() if step}
    for name, results in found.items():
        results = torch.as_tensor(results).reshape(1, -1) if name == "maxsim-cpu" else results
        torch.testing.assert_close(results, found["eager"], rtol=1e-4, atol=1e-5)


def test_both_ways_to_rerank_find_the_same(backend):
    in_place, gathered = (step() for step in rerank_steps(30, 7, backend).values())
    assert torch.equal(in_place, gathered)
