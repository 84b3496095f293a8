"""Soft and multi-positive targets of the contrastive losses, against loops over pairs."""

import math

import pytest
import torch
from dropin_checks import assert_replaces
from problems import problem
from tolerances import FLOAT64

from gloria_ops import GlobalContrastiveLoss, LocalContrastiveLoss, contrastive_losses, local_scores

GENERATOR = torch.Generator().manual_seed(11)
SCORES = torch.randn(4, 5, dtype=torch.float64, generator=GENERATOR)
SQUARE = SCORES[:, :4]
WEIGHTS = torch.rand(4, 5, dtype=torch.float64, generator=GENERATOR) * (torch.arange(20).reshape(4, 5) % 3 != 0)
IDS = torch.tensor([3, 1, 3, 2])


def plain(scores, weights, scale, mask=None):
    """Both losses, item by item: minus the mean logarithm of what softmax gives to each positive, by its weight."""
    losses = []
    for logits, of_pairs, takes_part in (
        (scale * scores, weights, mask),
        (scale * scores.T, weights.T, None if mask is None else mask.T),
    ):
        for i, row in enumerate(logits):
            there = [j for j in range(len(row)) if mask is None or takes_part[i, j]]
            every = sum(math.e ** row[j] for j in there)
            parts = [of_pairs[i, j] * -torch.log(math.e ** row[j] / every) for j in there if of_pairs[i, j]]
            losses.append(sum(parts) / sum(of_pairs[i]))
    losses = torch.stack(losses)
    return losses[: len(scores)], losses[len(scores) :]


def test_weights_of_more_texts_than_images():
    assert_replaces(
        lambda scores: contrastive_losses(scores, logit_scale=2.0, targets=WEIGHTS, reduction="none"),
        lambda scores: plain(scores, WEIGHTS, 2.0),
        SCORES,
    )


@pytest.mark.parametrize(("reduction", "reduce"), [("mean", torch.mean), ("sum", torch.sum)])
def test_reductions(reduction, reduce):
    ours = contrastive_losses(SCORES, logit_scale=2.0, targets=WEIGHTS, reduction=reduction)
    torch.testing.assert_close(ours, tuple(reduce(each) for each in plain(SCORES, WEIGHTS, 2.0)), **FLOAT64)


def test_ids_are_a_matrix_of_ones():
    same = torch.tensor([[1, 0, 1, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1]])
    expected = plain(SQUARE, same.double(), 3.0)
    for targets in (IDS, same.bool(), same, 0.25 * same):
        ours = contrastive_losses(SQUARE, logit_scale=3.0, targets=targets, reduction="none")
        torch.testing.assert_close(ours, expected, **FLOAT64)


def test_targets_that_name_the_diagonal_change_nothing():
    expected = contrastive_losses(SQUARE, logit_scale=3.0)
    for targets in (torch.arange(4), torch.eye(4)):
        torch.testing.assert_close(contrastive_losses(SQUARE, logit_scale=3.0, targets=targets), expected, **FLOAT64)


def test_a_mask_leaves_negatives_out():
    mask = torch.ones(4, 5, dtype=torch.bool)
    mask[0, 3] = mask[2, 2] = False
    assert not WEIGHTS[~mask].any()
    assert_replaces(
        lambda scores: contrastive_losses(scores, logit_scale=2.0, targets=WEIGHTS, pair_mask=mask, reduction="none"),
        lambda scores: plain(scores, WEIGHTS, 2.0, mask),
        SCORES,
    )


def test_of_the_modules():
    one = problem("random", 4, 4, most_regions=5, most_words=3, width=8)
    ours = LocalContrastiveLoss()(one.regions, one.words, targets=IDS, **one.lengths)
    scores = local_scores(one.regions, one.words, **one.lengths)
    assert ours == contrastive_losses(scores, logit_scale=10.0, targets=IDS)
    ours = GlobalContrastiveLoss()(one.regions[:, 0], one.words[:, 0], targets=IDS)
    assert ours != GlobalContrastiveLoss()(one.regions[:, 0], one.words[:, 0])


def test_targets_have_no_gradient():
    targets = WEIGHTS.clone().requires_grad_()
    scores = SCORES.clone().requires_grad_()
    sum(contrastive_losses(scores, logit_scale=2.0, targets=targets)).backward()
    assert targets.grad is None
    assert scores.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("scores", "settings", "error", "message"),
    [
        (SCORES, {"targets": WEIGHTS * torch.tensor([[1], [0], [1], [1]])}, ValueError, r"targets\[1\] sums to 0, so"),
        (
            SCORES,
            {"targets": WEIGHTS * (torch.arange(5) != 2)},
            ValueError,
            r"targets\[:, 2\] sums to 0, so that",
        ),
        (
            SCORES,
            {"targets": WEIGHTS - 2},
            ValueError,
            r"targets\[0, 0\] is -2; expected a finite weight",
        ),
        (SCORES, {"targets": WEIGHTS / 0}, ValueError, r"targets\[0, 0\] is nan; expected a finite weight"),
        (SCORES, {"targets": WEIGHTS.T}, ValueError, r"targets has the shape \(5, 4\); expected \(4, 5\), images by t"),
        (SCORES, {"targets": IDS}, ValueError, r"targets are ids, with 4 images \(N_v\) and 5 texts \(N_t\)"),
        (
            SQUARE,
            {"targets": IDS[:3]},
            ValueError,
            r"targets has the shape \(3,\); expected \(4,\), images by",
        ),
        (
            SQUARE,
            {"targets": IDS.float()},
            TypeError,
            r"targets is torch.float32 of one dimension; expected i",
        ),
        (
            SQUARE,
            {"targets": IDS.tolist()},
            TypeError,
            r"targets is a list; expected a tensor: torch.as_t",
        ),
        (SQUARE, {"targets": IDS.to("meta")}, ValueError, "targets is on meta; expected cpu"),
        (SCORES, {}, ValueError, r"4 images \(N_v\) and 5 texts"),
        (SQUARE[0], {"targets": IDS}, ValueError, r"scores has the shape \(4,\); expected \(N, N\)"),
        (
            SQUARE,
            {"targets": IDS, "pair_mask": torch.eye(4).bool()},
            ValueError,
            r"pair_mask\[0, 2\] is False; expected True where targets is above 0: pair_mask \| \(targets > 0\)",
        ),
    ],
)
def test_what_does_not_fit_has_a_message(scores, settings, error, message):
    with pytest.raises(error, match=message):
        contrastive_losses(scores, logit_scale=1.0, **settings)
