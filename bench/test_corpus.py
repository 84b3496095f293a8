"""How long does an image take to find its report among 100,000 on disk, by all scores and in two stages?"""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers", reason="the index is part of gloria: pip install '.[model]'")
pytest.importorskip("faiss", reason="a search in two stages: pip install '.[faiss]'")

from bench.corpus import BEST, CORPORA, SMALL_CORPUS, measure, searches, write_corpus

QUERIES = (1, 8)


@pytest.mark.measured
@pytest.mark.parametrize("corpus", CORPORA, ids=lambda corpus: f"{corpus.texts}x{corpus.width}")
def test_full_size(corpus, rows, tmp_path):
    rows.setdefault("corpus", []).extend(measure(corpus, QUERIES, tmp_path, rounds=5))


@pytest.mark.checked
def test_every_search_has_a_row(tmp_path):
    measured = measure(SMALL_CORPUS, QUERIES, tmp_path, rounds=2)
    in_two = ["two stages", "re-rank"]
    assert [row["search"] for row in measured] == [*in_two, "all, local", "all, both", *in_two]
    assert [row["queries"] for row in measured] == 4 * [1] + 2 * [8]
    for row in measured:
        assert row["scored"] == SMALL_CORPUS.texts
        assert min(row["ms"], row["pairs_per_second"], row["bytes"]) > 0
        assert len(row["rounds_ms"]) == 2


def test_every_search_finds_the_same_where_all_are_candidates(tmp_path):
    found = {
        name: step() for name, (_, step) in searches(SMALL_CORPUS, write_corpus(SMALL_CORPUS, tmp_path), 1).items()
    }
    assert found["all, both"].indices.shape == (1, BEST)
    for name in ("two stages", "re-rank"):
        torch.testing.assert_close(found[name].scores, found["all, both"].scores, atol=1e-5, rtol=1e-5)
        assert torch.equal(found[name].indices, found["all, both"].indices)
    assert not torch.equal(found["all, local"].scores, found["all, both"].scores)
