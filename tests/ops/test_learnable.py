"""Weights of words and scales as tensors: what is refused, by name, and what makes no difference."""

import math
from dataclasses import replace

import pytest
import torch
from problems import PRESETS, problem
from tolerances import FLOAT32

from gloria_ops import LocalContrastiveLoss, LocalScore, local_scores
from gloria_ops.backends import cuda
from gloria_ops.learnable import Learnable

ONE = problem("random", images=3, texts=4, most_regions=12, most_words=7, width=8).to(torch.float32)
RELEASED = LocalScore.released()


def scores(score=RELEASED, **given):
    return local_scores(ONE.regions, ONE.words, word_lengths=ONE.word_lengths, score=score, **given)


def weights(text=1, word=0, value=1.0):
    found = torch.ones(4, 7)
    found[text, word] = value
    return found


MAXIMUM = replace(RELEASED, pool="max")
REFUSED = {
    "negative": ({"word_weights": weights(value=-0.5)}, ValueError, "of text 1 has -0.5 at its word 0; .*clamp"),
    "NaN": ({"word_weights": weights(value=math.nan)}, ValueError, "of text 1 has nan at its word 0; expected finite"),
    "infinite": ({"word_weights": weights(value=math.inf)}, ValueError, "of text 1 has inf at its word 0"),
    "all 0": ({"word_weights": torch.zeros(4, 7)}, ValueError, "of text 0 are all 0; .* for pool 'logsumexp'"),
    "another shape": ({"word_weights": torch.ones(4, 6)}, ValueError, r"has the shape \(4, 6\); expected \(4, 7\)"),
    "integers": ({"word_weights": torch.ones(4, 7, dtype=torch.int64)}, TypeError, "is torch.int64; expected a float"),
    "of a maximum": ({"word_weights": weights(), "score": MAXIMUM}, ValueError, "for pool 'max', which reads none"),
    "i2t": ({"word_weights": weights(), "score": PRESETS["scan_i2t"]}, ValueError, "where words do not attend"),
    "two scales": (
        {"attention_scale": torch.ones(2)},
        ValueError,
        r"attention_scale has the shape \(2,\); expected one",
    ),
    "two word scales": ({"word_scale": torch.ones(2)}, ValueError, r"word_scale has the shape \(2,\); expected one"),
    "a number": (
        {"word_scale": 4.0},
        TypeError,
        "word_scale is 4.0; expected a floating tensor",
    ),
    "a scale of 0": (
        {"attention_scale": torch.zeros(())},
        ValueError,
        "attention_scale is 0.0; expected a number",
    ),
    "hard": ({"attention_scale": torch.ones(()), "score": PRESETS["maxsim"]}, ValueError, "has the hard maximum"),
    "unread": ({"word_scale": torch.ones(()), "score": MAXIMUM}, ValueError, "pool 'max' reads none"),
}


@pytest.mark.parametrize(("given", "error", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_refused(given, error, message):
    with pytest.raises(error, match=message):
        scores(**given)


def test_weights_of_padding_may_be_anything():
    noted = weights()
    noted[torch.arange(7) >= ONE.word_lengths[:, None]] = math.nan
    assert torch.equal(scores(word_weights=noted), scores(word_weights=torch.ones(4, 7)))


@pytest.mark.parametrize("pool", ["logsumexp", "softmax", "mean", "sum"])
def test_weights_of_one_are_none(pool):
    score = replace(RELEASED, pool=pool)
    assert torch.equal(scores(score, word_weights=torch.ones(4, 7)), scores(score))


def test_a_sum_of_weights_of_zero_is_zero():
    score = replace(RELEASED, pool="sum")
    assert not scores(score, word_weights=torch.zeros(4, 7)).any()


def test_scales_are_the_numbers_that_they_hold():
    other = replace(RELEASED, attention_scale=7.0, word_scale=2.0)
    ours = scores(attention_scale=torch.tensor([7.0]), word_scale=torch.tensor(2.0, dtype=torch.bfloat16))
    assert torch.equal(ours, scores(other))


def test_a_smooth_maximum_is_one_of_plain_affinities():
    with pytest.raises(ValueError, match="'smooth_max' with word_norm 'softmax'; expected word_norm='none'"):
        LocalScore(similarity="smooth_max")


SMOOTH = LocalScore(word_norm="none", similarity="smooth_max")
LACKING = {
    "similarity='smooth_max'": (SMOOTH, Learnable()),
    "pool='softmax'": (replace(RELEASED, pool="softmax"), Learnable()),
    "word_weights as a tensor": (RELEASED, Learnable(word_weights=torch.ones(4))),
    "attention_scale as a tensor": (RELEASED, Learnable(attention_scale=torch.ones(()))),
    "word_scale as a tensor": (RELEASED, Learnable(word_scale=torch.ones(()))),
}


@pytest.mark.parametrize(("knob", "given"), LACKING.items(), ids=LACKING.keys())
def test_backends_that_lack_them_say_so(knob, given, monkeypatch):
    score, learnable = given
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert cuda.unsupported(score, torch.bfloat16, torch.device("cuda"), learnable) == f"it lacks {knob}"


def test_the_module_learns_them_from_where_the_score_has_them():
    module = LocalContrastiveLoss(learnable_attention_scale=True, learnable_word_scale=True)
    assert [name for name, _ in module.named_parameters()] == ["attention_scale.log_scale", "word_scale.log_scale"]
    square = ONE.regions, ONE.words[:3]
    ours, fixed = module(*square), LocalContrastiveLoss()(*square)
    torch.testing.assert_close(ours, fixed, **FLOAT32)
    sum(ours).backward()
    assert all(each.grad.abs() > 0 for each in module.parameters())
    with torch.no_grad():
        module.attention_scale.log_scale.fill_(math.log(9.0))
    assert module.learned_score.attention_scale == pytest.approx(9.0)
    assert module.learned_score.word_scale == pytest.approx(5.0)
    assert module.learned_score.logit_scale == 10.0


def test_the_module_refuses_to_learn_what_there_is_not():
    with pytest.raises(ValueError, match="attention_scale is inf; expected a number from"):
        LocalContrastiveLoss(PRESETS["maxsim"], learnable_attention_scale=True)
