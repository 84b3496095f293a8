"""The losses over any matrix of scores, against plain loops; over the fused scores as well."""

import math

import pytest
import torch
from dropin_checks import assert_replaces, plain_cross_entropies, plain_hinge
from problems import problem
from tolerances import FLOAT64

from gloria_ops import LocalScore, hinge_loss, local_scores, symmetric_loss

SCORES = torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("max_violation", [False, True])
@pytest.mark.parametrize("margin", [0.0, 0.2, 1.5])
def test_hinge(margin, max_violation):
    assert_replaces(
        lambda scores: [hinge_loss(scores, margin=margin, max_violation=max_violation)],
        lambda scores: [plain_hinge(scores, margin, max_violation)],
        SCORES,
    )


def test_hinge_by_hand():
    scores = torch.tensor([[1.0, 0.9, 0.5], [0.2, 0.3, 0.25], [0.0, 0.0, 2.0]])
    # Rows: 0.1; 0.1 and 0.15; none. Columns: none; 0.8 (0.9 over 0.3); none.
    assert hinge_loss(scores).item() == pytest.approx(0.1 + 0.1 + 0.15 + 0.8)
    assert hinge_loss(scores, max_violation=True).item() == pytest.approx(0.1 + 0.15 + 0.8)


@pytest.mark.parametrize(("scale", "weight"), [(1.0, 0.5), (10.0, 0.75), (2.0, 0.0), (2.0, 1.0)])
def test_symmetric(scale, weight):
    def plain(scores):
        image_to_text, text_to_image = plain_cross_entropies(scale * scores)
        return [(weight * image_to_text + (1 - weight) * text_to_image).mean()]

    assert_replaces(lambda scores: [symmetric_loss(scores, logit_scale=scale, image_weight=weight)], plain, SCORES)


def test_symmetric_defaults_are_those_of_clip():
    assert symmetric_loss(SCORES) == symmetric_loss(SCORES, logit_scale=1.0, image_weight=0.5)


def test_symmetric_scale_is_learnable():
    scale = torch.tensor(2.0, requires_grad=True)
    assert torch.autograd.grad(symmetric_loss(SCORES, logit_scale=scale), scale)[0].abs() > 0


@pytest.mark.parametrize("loss", [hinge_loss, symmetric_loss])
def test_over_fused_scores(loss):
    unit = problem("unit", images=4, texts=4, most_regions=6, most_words=5, width=8)

    def over(backend):
        def scored(regions, words):
            score = LocalScore.scan_t2i()
            return [loss(local_scores(regions, words, score=score, backend=backend, **unit.lengths))]

        return scored

    assert_replaces(over(None), over("reference"), unit.regions, unit.words)


@pytest.mark.parametrize("loss", [hinge_loss, symmetric_loss])
def test_a_pair_alone_loses_nothing(loss):
    assert loss(torch.tensor([[-3.0]])) == 0


@pytest.mark.parametrize("loss", [hinge_loss, symmetric_loss])
def test_scores_that_are_not_square(loss):
    with pytest.raises(ValueError, match=r"there are 5 images \(N_v\) and 4 texts \(N_t\).*drop what has no partner$"):
        loss(SCORES[:, :4])
    with pytest.raises(ValueError, match=r"scores has the shape \(5,\); expected \(N, N\), images by texts"):
        loss(SCORES[0])
    with pytest.raises(TypeError, match="scores is a int; expected a tensor"):
        loss(3)


@pytest.mark.parametrize(("margin", "error"), [("a", TypeError), (math.nan, ValueError), (math.inf, ValueError)])
def test_margins_refused(margin, error):
    with pytest.raises(error, match=f"margin is {margin!r}; expected a number from"):
        hinge_loss(SCORES, margin=margin)


def test_a_weight_that_is_no_number_is_refused():
    with pytest.raises(TypeError, match="image_weight is 'a'; expected 0 to 1"):
        symmetric_loss(SCORES, image_weight="a")


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan")])
def test_weights_beyond_one(weight):
    with pytest.raises(ValueError, match=f"image_weight is {weight}; expected 0 to 1, the weight of image to text"):
        symmetric_loss(SCORES, image_weight=weight)


def test_symmetric_is_that_of_transformers():
    modeling = pytest.importorskip("transformers.models.clip.modeling_clip")
    theirs = getattr(modeling, "image_text_contrastive_loss", None) or modeling.clip_loss
    torch.testing.assert_close(symmetric_loss(SCORES), theirs(SCORES), **FLOAT64)
