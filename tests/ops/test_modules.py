"""The modules hold settings and nothing more; the global loss is InfoNCE over cosines."""

import math

import pytest
import torch
import torch.nn.functional as F
from problems import problem
from tolerances import FLOAT64

from gloria_ops import (
    GlobalContrastiveLoss,
    LocalContrastiveLoss,
    LocalScore,
    LocalSigmoidLoss,
    local_contrastive_loss,
)

ONE = problem("random", images=4, texts=4, most_regions=12, most_words=7, width=8)
MASK = torch.eye(4, dtype=torch.bool) | (torch.arange(4) < 2)
IMAGES, TEXTS = ONE.regions[:, 0], ONE.words[:, 0]


def test_local_module_is_the_function():
    score = LocalScore.scan_t2i()
    module = LocalContrastiveLoss(score, reduction="sum", backend="reference")
    assert not list(module.parameters())
    ours = module(ONE.regions, ONE.words, pair_mask=MASK, **ONE.lengths)
    expected = local_contrastive_loss(
        ONE.regions, ONE.words, score=score, reduction="sum", pair_mask=MASK, backend="reference", **ONE.lengths
    )
    assert ours == expected


def test_learnable_scale_starts_at_the_score_and_is_saved():
    module = LocalContrastiveLoss(learnable_scale=True)
    torch.testing.assert_close(module.logit_scale(), torch.tensor(10.0))
    assert [name for name, _ in module.named_parameters()] == ["logit_scale.log_scale"]
    sum(module(ONE.regions.float(), ONE.words.float())).backward()
    assert module.logit_scale.log_scale.grad.abs() > 0
    other = GlobalContrastiveLoss(logit_scale=2.0, learnable_scale=True)
    other.load_state_dict(module.state_dict())
    torch.testing.assert_close(other.logit_scale(), torch.tensor(10.0))


def test_global_loss_by_hand():
    ours = GlobalContrastiveLoss()(IMAGES, TEXTS, pair_mask=MASK)
    logits = 10 * F.cosine_similarity(IMAGES[:, None], TEXTS, dim=-1)
    logits[~MASK] = -math.inf
    expected = [(each.logsumexp(1) - each.diagonal()).mean() for each in (logits, logits.T)]
    torch.testing.assert_close(list(ours), expected, **FLOAT64)


def test_global_loss_is_float32_under_autocast():
    single = IMAGES.float(), TEXTS.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = GlobalContrastiveLoss()(*single)
    assert ours == GlobalContrastiveLoss()(*single)
    halves = GlobalContrastiveLoss()(single[0].bfloat16(), single[1])
    assert halves[0].dtype == torch.float32


def test_zero_vectors_have_gradients():
    vectors = torch.zeros(3, 4, requires_grad=True)
    sum(GlobalContrastiveLoss()(vectors, torch.randn(3, 4))).backward()
    assert vectors.grad.isfinite().all()


def test_printed_modules_say_what_they_hold():
    assert "attention_scale=4.0" in str(LocalContrastiveLoss())
    assert "10, learnable=True" in str(GlobalContrastiveLoss(learnable_scale=True))


@pytest.mark.parametrize(
    ("images", "texts", "error", "message"),
    [
        (IMAGES[0], TEXTS, ValueError, r"image_vectors has the shape \(8,\); expected \(N, D\)"),
        (IMAGES, TEXTS[:0], ValueError, r"text_vectors has the shape \(0, 8\); expected \(N, D\)"),
        (IMAGES, TEXTS[:, :4], ValueError, r"image_vectors are \(4, 8\) on cpu and text_vectors \(4, 4\) on cpu"),
        (IMAGES, TEXTS[:2], ValueError, r"4 images \(N_v\) and 2 texts \(N_t\)"),
        (IMAGES.long(), TEXTS, TypeError, "image_vectors is torch.int64; expected float16"),
    ],
)
def test_global_loss_refuses(images, texts, error, message):
    with pytest.raises(error, match=message):
        GlobalContrastiveLoss()(images, texts)


@pytest.mark.parametrize("loss", [LocalContrastiveLoss, LocalSigmoidLoss])
def test_a_score_that_is_a_name_is_refused(loss):
    with pytest.raises(TypeError, match=r"score is 'paper'; expected a gloria_ops.LocalScore.*LocalScore.paper\(tau2"):
        loss(score="paper")


def test_scales_refused():
    with pytest.raises(ValueError, match=r"logit_scale is -1\.0; expected a number from 1.2e-38 to 3.4e\+38"):
        GlobalContrastiveLoss(logit_scale=-1)
    with pytest.raises(ValueError, match=r"eps is 0\.0"):
        GlobalContrastiveLoss(eps=0)
