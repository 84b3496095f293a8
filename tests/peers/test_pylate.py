"""The drop-in against PyLate as installed: scores, losses called directly, and the patch."""

import pytest
import torch
from late_interaction import Encoder, columns, loss_and_gradient, positive
from tolerances import FLOAT32

from gloria_ops.dropin import maxsim
from gloria_ops.dropin import pylate as ours

WIDTHS = (6, 9, 9)  # documents of one width, to which pylate's collator pads them
REASON = "pylate is not installed: make test-peers"
theirs = pytest.importorskip("pylate.scores", reason=REASON, exc_type=ImportError)
losses = pytest.importorskip("pylate.losses", reason=REASON, exc_type=ImportError)
rank = pytest.importorskip("pylate.rank", reason=REASON, exc_type=ImportError)


@pytest.fixture
def patched():
    ours.patch()
    yield
    ours.unpatch()


def results(function, *given):
    leaves = [each.clone().requires_grad_() for each in given[:2]]
    scores = function(*leaves, *given[2:])
    weights = torch.rand(scores.shape, generator=torch.Generator().manual_seed(6))
    return scores.detach(), *torch.autograd.grad((scores * weights).sum(), leaves)


@pytest.mark.parametrize("masked", [False, True])
def test_scores(masked):
    queries, documents = positive(3, 4, 8, seed=1).float(), positive(3, 2, 6, 8, seed=2).float()
    queries_mask = torch.tensor([[1.0, 1, 1, 1], [1, 1, 0, 0], [1, 0, 1, 0]])
    documents_mask = (positive(3, 2, 6, seed=3) > 0.3).float()
    documents_mask[0, 1] = 0  # no real token: 0 on both sides
    every = (queries_mask, documents_mask[:, 1]) if masked else ()
    torch.testing.assert_close(
        results(ours.colbert_scores, queries, documents[:, 1], *every),
        results(theirs.colbert_scores, queries, documents[:, 1], *every),
        **FLOAT32,
    )
    own = (queries_mask, documents_mask) if masked else ()
    torch.testing.assert_close(
        results(ours.colbert_kd_scores, queries, documents, *own),
        results(theirs.colbert_kd_scores, queries, documents, *own),
        **FLOAT32,
    )
    torch.testing.assert_close(
        results(ours.colbert_scores_pairwise, queries, documents[:, 0]),
        results(theirs.colbert_scores_pairwise, queries, documents[:, 0]),
        **FLOAT32,
    )


def test_where_it_is_wrong():
    """Padding wins over negative similarities there, since a mask multiplies."""
    query, document = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[-0.5, 0.8], [9.0, 9.0]]], requires_grad=True)
    mask = torch.tensor([[1.0, 0.0]])
    assert theirs.colbert_scores(query, document, documents_mask=mask).item() == 0
    found = ours.colbert_scores(query, document, documents_mask=mask)
    assert found.item() == -0.5
    found.backward()
    assert document.grad.tolist() == [[[1.0, 0.0], [0.0, 0.0]]]


def of_losses(**metrics):
    model = Encoder()
    contrastive = losses.Contrastive(model, **{k: v for k, v in metrics.items() if k == "score_metric"})
    return [loss_and_gradient(contrastive, model, columns(2, WIDTHS)), *distillation(model)]


def distillation(model):
    queries, *documents = columns(2, WIDTHS)
    documents = {name: torch.stack([each[name] for each in documents], 1).flatten(0, 1) for name in queries}
    labels = torch.tensor([[1.0, 0.0], [0.5, 0.2], [0.1, 0.9], [0.3, 0.3]])
    return [loss_and_gradient(losses.Distillation(model), model, [queries, documents], labels)]


def test_losses_call_ours_where_patched(patched, monkeypatch):
    """Also the default of a constructor, and a metric that holds no function of its own."""
    calls = []
    original = maxsim.local_scores
    of_pairs = maxsim.local_pair_scores
    monkeypatch.setattr(maxsim, "local_scores", lambda *a, **k: calls.append("all") or original(*a, **k))
    monkeypatch.setattr(maxsim, "local_pair_scores", lambda *a, **k: calls.append("pairs") or of_pairs(*a, **k))
    found = of_losses()
    assert calls == ["all", "all", "pairs"]  # two columns of documents; queries with documents of their own
    ours.unpatch()
    expected = of_losses()
    assert len(calls) == 3
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, **FLOAT32)


def test_ranking_where_patched(patched):
    queries, documents = positive(2, 4, 8, seed=1).float(), positive(2, 3, 6, 8, seed=2).float()
    given = {
        "documents_ids": [["a", "b", "c"], ["d", "e", "f"]],
        "queries_embeddings": list(queries),
        "documents_embeddings": [list(each) for each in documents],
    }
    found = rank.rerank(**given)
    ours.unpatch()
    for one, other in zip(found, rank.rerank(**given), strict=True):
        assert [each["id"] for each in one] == [each["id"] for each in other]
        assert [each["score"] for each in one] == pytest.approx([each["score"] for each in other], rel=1e-5)
