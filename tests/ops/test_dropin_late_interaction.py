"""The scores for sentence_transformers, PyLate and ColPali's engine without these packages, and how they are patched.

Against the packages themselves: tests/peers, `make test-peers`.
"""

import sys
from functools import partial
from types import ModuleType

import numpy as np
import pytest
import torch
from dropin_checks import assert_replaces

from gloria_ops.dropin import colpali_engine, pylate, sentence_transformers
from gloria_ops.dropin.patching import Patch

QUERIES = torch.randn(3, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
GROUPS = torch.randn(3, 2, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
QUERIES_MASK = torch.tensor([[1.0, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 0]])
GROUPS_MASK = torch.tensor(
    [[[1.0, 1, 0, 0, 0], [1, 1, 1, 1, 1]], [[0, 0, 1, 0, 1], [1, 0, 0, 0, 0]], [[0] * 5, [1] * 5]]
)


def plain(query, document, query_mask, document_mask, empty, mean):
    real = [token for token, there in zip(document, document_mask, strict=True) if there]
    if not real:
        return query.sum() * 0 + empty
    best = [max(word @ token for token in real) for word, there in zip(query, query_mask, strict=True) if there]
    return sum(best, query.sum() * 0) / (max(len(best), 1) if mean else 1)


def plain_scores(queries, groups, queries_mask, groups_mask, empty, mean=False):
    """(Q, G * N)."""
    documents, masks = groups.flatten(0, 1), groups_mask.flatten(0, 1)
    return torch.stack(
        [
            torch.stack([plain(q, d, m, n, empty, mean) for d, n in zip(documents, masks, strict=True)])
            for q, m in zip(queries, queries_mask, strict=True)
        ]
    )


@pytest.mark.parametrize("mean", [False, True])
def test_of_sentence_transformers(mean):
    every, own, pairs = (
        (sentence_transformers.mean_colbert_scores if mean else sentence_transformers.colbert_scores),
        (sentence_transformers.mean_colbert_kd_scores if mean else sentence_transformers.colbert_kd_scores),
        (sentence_transformers.mean_colbert_scores_pairwise if mean else sentence_transformers.colbert_scores_pairwise),
    )

    def ours(queries, groups):
        masks = {"queries_mask": QUERIES_MASK, "documents_mask": GROUPS_MASK}
        pair_masks = {"queries_mask": QUERIES_MASK, "documents_mask": GROUPS_MASK[:, 1]}
        parts = (
            every(queries, groups, **masks),
            own(queries, groups, **masks),
            pairs(queries, groups[:, 1], **pair_masks),
        )
        assert [tuple(each.shape) for each in parts] == [(3, 6), (3, 2), (3,)]
        # Beside -1e9, which is there twice, float32 has no digits for an average error.
        return [each.clamp(min=-1000) for each in parts]

    def expected(queries, groups):
        scores = plain_scores(queries, groups, QUERIES_MASK, GROUPS_MASK, -1e9, mean)
        own = torch.stack([scores[item, 2 * item : 2 * item + 2] for item in range(3)])
        return [each.clamp(min=-1000) for each in (scores, own, own[:, 1])]

    assert_replaces(ours, expected, QUERIES, GROUPS)
    assert every(QUERIES, GROUPS, documents_mask=GROUPS_MASK)[0, 4] == (-1e9 / 4 if mean else -1e9)
    with pytest.raises(ValueError, match=r"documents_embeddings has the shape \(3, 5, 6\); expected \(G, N, L, D\)"):
        every(QUERIES, GROUPS[:, 0])
    with pytest.raises(ValueError, match=r"documents_embeddings has the shape \(3, 2, 5, 6\); expected \(Q, L, D\)"):
        pairs(QUERIES, GROUPS)
    for function, documents in ((every, GROUPS), (own, GROUPS), (pairs, GROUPS[:, 0])):
        with pytest.raises(TypeError, match="documents_mask is int; expected a bool or integer tensor"):
            function(QUERIES, documents, documents_mask=3)


@pytest.mark.parametrize(
    ("function", "queries", "documents", "expected"),
    [
        (
            sentence_transformers.colbert_scores,
            QUERIES,
            GROUPS[..., 1:],
            "documents_embeddings are 5 wide and queries_",
        ),
        (sentence_transformers.colbert_kd_scores, QUERIES, GROUPS[:2], r"documents_embeddings has the shape \(2, 2, 5"),
        (pylate.colbert_scores, QUERIES[0], GROUPS[:, 0], r"queries_embeddings has the shape .*; expected \(X, T, D\)"),
        (pylate.colbert_kd_scores, QUERIES, GROUPS[..., 1:], "documents_embeddings are 5 wide and queries_embeddings"),
        (colpali_engine.maxsim_inbatch, QUERIES, GROUPS[:, 0, :, 1:], "doc are 5 wide and query 6"),
        (colpali_engine.maxsim_kd, QUERIES, GROUPS[..., 1:], "doc are 5 wide and query 6"),
    ],
)
def test_messages_name_the_arguments_of_the_function(function, queries, documents, expected):
    with pytest.raises(ValueError, match=expected):
        function(queries, documents)


def test_of_pylate():
    given = {"queries_mask": QUERIES_MASK, "documents_mask": GROUPS_MASK[:, 0]}

    def expected(queries, groups):
        scores = plain_scores(queries, groups, QUERIES_MASK, GROUPS_MASK, 0.0)
        pairs = plain_scores(queries, groups[:, :1], torch.ones(3, 4), torch.ones(3, 1, 5), 0.0)
        return [scores[:, ::2], torch.stack([scores[i, 2 * i : 2 * i + 2] for i in range(3)]), pairs.diagonal()]

    def ours(queries, groups):
        return [
            pylate.colbert_scores(queries, groups[:, 0], **given),
            pylate.colbert_kd_scores(queries, groups, QUERIES_MASK, GROUPS_MASK),
            pylate.colbert_scores_pairwise(queries, groups[:, 0]),
        ]

    assert_replaces(ours, expected, QUERIES, GROUPS)


def test_of_pylate_from_lists_and_arrays():
    lengths = [4, 2, 3]
    queries = [query[:length].numpy() for query, length in zip(QUERIES, lengths, strict=True)]
    documents = [document[: length + 1] for document, length in zip(GROUPS[:, 0], lengths, strict=True)]
    expected = [
        (torch.tensor(query) @ document.T).amax(1).sum() for query, document in zip(queries, documents, strict=True)
    ]
    torch.testing.assert_close(pylate.colbert_scores_pairwise(queries, documents), torch.stack(expected))
    whole = pylate.colbert_scores(QUERIES, GROUPS[:, 0])
    assert torch.equal(pylate.colbert_scores(list(QUERIES), np.asarray(GROUPS[:, 0])), whole)


def test_of_colpali():
    every = torch.ones(3, 4), torch.ones(3, 2, 5)

    def expected(queries, groups):
        scores = plain_scores(queries, groups, *every, 0.0)
        return [scores[:, ::2], torch.stack([scores[i, 2 * i : 2 * i + 2] for i in range(3)])]

    def ours(queries, groups):
        return [colpali_engine.maxsim_inbatch(queries, groups[:, 0]), colpali_engine.maxsim_kd(queries, groups)]

    assert_replaces(ours, expected, QUERIES, GROUPS)


@pytest.fixture
def upstream(monkeypatch):
    """A package whose function stands in the module that defines it, in one that imports it, and in a default."""

    def score():
        return "theirs"

    def __init__(self, metric=score, other=1):
        self.metric = metric

    modules = {name: ModuleType(name) for name in ("upstream", "upstream.scores", "upstream.losses")}
    modules["upstream.scores"].score = modules["upstream.losses"].score = score
    modules["upstream.losses"].Loss = type("Loss", (), {"__init__": __init__, "__module__": "upstream.losses"})
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr("gloria_ops.dropin.patching.version", {"up-stream": "1.2"}.__getitem__)
    return modules


def test_a_patch_reaches_every_module_and_is_taken_back(upstream):
    def ours():
        return "ours"

    def seen():
        losses = upstream["upstream.losses"]
        return upstream["upstream.scores"].score(), losses.score(), losses.Loss().metric()

    patch = Patch("up-stream", ("1.1", "1.2"), {"upstream.scores": {"score": ours}})
    assert seen() == ("theirs",) * 3
    patch.patch()
    patch.patch()
    assert seen() == ("ours",) * 3
    late = sys.modules["upstream.late"] = ModuleType("upstream.late")
    late.score = upstream["upstream.scores"].score
    try:
        patch.unpatch()
        assert (*seen(), late.score()) == ("theirs",) * 4
        patch.unpatch()
        assert seen() == ("theirs",) * 3
    finally:
        del sys.modules["upstream.late"]


def test_unknown_versions_are_refused(upstream, monkeypatch):
    patch = Patch("up-stream", ("1.0", "1.1"), {"upstream.scores": {"score": print}})
    message = "up-stream is 1.2; expected 1.0 or 1.1, which this was tested with: pip install up-stream==1.1, or call"
    with pytest.raises(ImportError, match=message):
        patch.patch()
    assert upstream["upstream.scores"].score() == "theirs"
    monkeypatch.undo()
    with pytest.raises(
        ImportError, match=r"up-stream is not installed; expected 1.0 or 1.1: pip install up-stream==1.1"
    ):
        patch.patch()


@pytest.mark.parametrize(("module", "distribution"), [(pylate, "pylate"), (colpali_engine, "colpali-engine")])
def test_the_patches_ask_for_the_version(module, distribution, monkeypatch):
    monkeypatch.setattr("gloria_ops.dropin.patching.version", partial({distribution: "0.0.1"}.__getitem__))
    with pytest.raises(ImportError, match=rf"{distribution} is 0\.0\.1; expected .* pip install {distribution}=="):
        module.patch()
