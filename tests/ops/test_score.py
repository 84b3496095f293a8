"""LocalScore: the presets have the published constants, and what cannot be computed is refused by name."""

import math
from dataclasses import FrozenInstanceError, asdict, replace

import numpy as np
import pytest
import torch

from gloria_ops import LocalScore


def test_released_is_the_default():
    assert LocalScore() == LocalScore.released() == LocalScore.damsm()
    assert asdict(LocalScore.released()) == {
        "word_norm": "softmax",
        "attention_scale": 4.0,
        "similarity": "cosine",
        "pool": "logsumexp",
        "word_scale": 5.0,
        "pool_mean": False,
        "pool_divide": False,
        "direction": "t2i",
        "logit_scale": 10.0,
    }


def test_paper_takes_temperatures():
    score = LocalScore.paper(tau2=0.25, tau3=0.5)
    assert (score.word_norm, score.similarity, score.pool) == ("none", "dot", "logsumexp")
    assert (score.attention_scale, score.word_scale, score.logit_scale) == (4.0, 2.0, 4.0)
    assert score.pool_divide
    assert not score.pool_mean


def test_scan():
    t2i, i2t = LocalScore.scan_t2i(), LocalScore.scan_i2t(pool="mean")
    assert (t2i.word_norm, t2i.similarity, t2i.attention_scale, t2i.word_scale) == ("clipped_l2", "cosine", 9.0, 6.0)
    assert (t2i.direction, t2i.pool, t2i.pool_divide) == ("t2i", "logsumexp", True)
    assert (i2t.direction, i2t.pool, i2t.attention_scale, i2t.word_scale) == ("i2t", "mean", 4.0, 5.0)


def test_maxsim():
    score = LocalScore.maxsim()
    assert (score.word_norm, score.attention_scale, score.similarity, score.pool) == ("none", math.inf, "dot", "sum")


def test_frozen_hashable_and_survives_a_dict():
    score = LocalScore.scan_i2t()
    with pytest.raises(FrozenInstanceError):
        score.word_scale = 2.0
    assert LocalScore(**asdict(score)) == score
    assert len({score, LocalScore.scan_i2t(), LocalScore.maxsim()}) == 2


def test_numbers_become_floats():
    score = LocalScore(attention_scale=4, word_scale=np.float32(5))
    assert score == LocalScore.released()
    assert type(score.attention_scale) is type(score.word_scale) is float


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("word_norm", "l3", "word_norm is 'l3'; expected one of 'none', 'softmax', 'clipped_l2', 'l2', .*, 'clipped'"),
        ("similarity", "euclid", "similarity is 'euclid'; expected one of 'dot', 'cosine'"),
        ("pool", "median", "pool is 'median'; expected one of 'logsumexp', 'max', 'mean', 'sum'"),
        ("direction", "i2i", "direction is 'i2i'; expected one of 't2i', 'i2t'"),
        ("attention_scale", math.nan, "attention_scale is nan; expected a number above 0, infinity included"),
        ("attention_scale", 0, "attention_scale is 0.0; expected a number above 0, infinity included"),
        ("word_scale", math.inf, "word_scale is inf; expected a finite number above 0"),
        ("word_scale", -1.0, "word_scale is -1.0; expected a finite number above 0"),
        ("logit_scale", math.nan, "logit_scale is nan; expected a finite number above 0"),
    ],
)
def test_values_refused(field, value, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        replace(LocalScore.released(), **{field: value})


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("word_scale", "5", "word_scale is '5'; expected a finite number above 0"),
        ("word_scale", True, "word_scale is True; expected a finite number above 0"),
        ("logit_scale", torch.tensor(10.0), r"logit_scale is tensor\(10.\); expected a finite number above 0"),
        ("pool_mean", 1, "pool_mean is 1; expected True or False"),
        ("pool_divide", "yes", "pool_divide is 'yes'; expected True or False"),
    ],
)
def test_types_refused(field, value, message):
    with pytest.raises(TypeError, match=f"^{message}$"):
        replace(LocalScore.released(), **{field: value})


def test_temperatures_refused_by_their_own_names():
    with pytest.raises(ValueError, match=r"tau2 is 0\.0"):
        LocalScore.paper(tau2=0, tau3=1)
    with pytest.raises(ValueError, match="tau3 is inf"):
        LocalScore.paper(tau2=1, tau3=math.inf)
