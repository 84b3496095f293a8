"""The drop-in against sentence_transformers as installed: scores, losses, and their gradients."""

import pytest
import torch
from late_interaction import Encoder, columns, loss_and_gradient, signed
from tolerances import FLOAT32

from gloria_ops.dropin import sentence_transformers as ours

REASON = "sentence_transformers 6 is not installed: make test-peers"
theirs = pytest.importorskip("sentence_transformers.multi_vector_encoder.scoring", reason=REASON, exc_type=ImportError)
losses = pytest.importorskip("sentence_transformers.multi_vector_encoder.losses", reason=REASON, exc_type=ImportError)

QUERIES, GROUPS = signed(5, 4, 8, seed=1), signed(5, 3, 6, 8, seed=2)
QUERIES_MASK = (signed(5, 4, seed=3) > -0.5).float()
GROUPS_MASK = (signed(5, 3, 6, seed=4) > 0).float()
QUERIES_MASK[2], GROUPS_MASK[1, 2] = 0, 0  # without a real token
CASES = [(name, mean) for name in ("scores", "kd_scores", "scores_pairwise") for mean in ("", "mean_")]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("name", "mean"), CASES)
def test_scores(name, mean, masked):
    groups = GROUPS[:, 0] if name == "scores_pairwise" else GROUPS
    masks = (QUERIES_MASK, GROUPS_MASK[:, 0] if name == "scores_pairwise" else GROUPS_MASK) if masked else ()
    results = []
    for module in (ours, theirs):
        leaves = QUERIES.clone().requires_grad_(), groups.clone().requires_grad_()
        scores = getattr(module, f"{mean}colbert_{name}")(*leaves, *masks)
        weights = torch.rand(scores.shape, generator=torch.Generator().manual_seed(6))
        results.append((scores, *torch.autograd.grad((scores * weights).sum(), leaves)))
    torch.testing.assert_close(*results, **FLOAT32)
    assert (results[0][0] < -1e8).any() == (masked and name != "scores_pairwise")


@pytest.mark.parametrize(
    ("name", "function", "labels"),
    [
        ("MultipleNegativesRanking", "colbert_scores", None),
        ("DistillKLDiv", "colbert_kd_scores", torch.tensor([[4.0, 1, 2], [3, 3, 1], [5, 2, 2], [1, 2, 0]])),
        ("MarginMSE", "colbert_scores_pairwise", torch.tensor([1.0, 0.5, 2, -1])),
    ],
)
def test_losses(name, function, labels):
    model = Encoder()
    loss_class = getattr(losses, f"MultiVector{name}Loss")
    batch = columns(2 if name == "MarginMSE" else 3)
    found = [
        loss_and_gradient(loss_class(model, similarity_fct=getattr(module, function)), model, batch, labels)
        for module in (ours, theirs)
    ]
    torch.testing.assert_close(*found, **FLOAT32)
    by_default = loss_and_gradient(loss_class(model), model, batch, labels)
    torch.testing.assert_close(found[0], by_default, **FLOAT32)


def test_the_cached_loss():
    model = Encoder()
    loss = losses.CachedMultiVectorMultipleNegativesRankingLoss
    found = [
        loss_and_gradient(loss(model, similarity_fct=module.colbert_scores, mini_batch_size=2), model, columns(2))
        for module in (ours, theirs)
    ]
    torch.testing.assert_close(*found, **FLOAT32)
