"""Does a search of a corpus run at the rate of the N x N batch, with 1, 10 and 100 queries, beside eager PyTorch?"""

from __future__ import annotations

import pytest
import torch

from bench.cases import CASES, SMALL_CASES
from bench.retrieval import make_images, measure, searches

QUERIES = (1, 10, 100)


@pytest.mark.measured
def test_full_size(backend, rows):
    rows.setdefault("retrieval", []).extend(measure(CASES[0], 384, QUERIES, backend=backend, rounds=5))


@pytest.mark.checked
def test_every_number_of_queries_has_a_row(backend):
    case = SMALL_CASES[0]
    measured = measure(case, 7, (1, 12), backend=backend, dtypes=("float32",), rounds=2)
    assert [(row["contender"], row["queries"], row["corpus"]) for row in measured] == [
        ("N x N", case.batch, case.batch),
        ("fused", 1, 7),
        ("eager", 1, 7),
        ("fused", 12, 7),
    ]
    assert measured[0]["percent_of_batch"] == pytest.approx(100)
    for row in measured:
        assert min(row["ms"], row["scores_per_second"], row["gflops"], row["percent_of_batch"]) > 0
        assert len(row["rounds_ms"]) == 2


@pytest.mark.parametrize("case", SMALL_CASES, ids=lambda case: case.preset)
def test_eager_finds_what_the_fused_search_finds(case, backend):
    of_fused, of_eager = (search() for search in searches(case, make_images(case, 13, "float32"), 4, backend).values())
    torch.testing.assert_close(of_fused.scores, of_eager.scores)
    assert torch.equal(of_fused.indices, of_eager.indices)
