"""LocalScore: the presets have the published constants, and what cannot be computed is refused by name."""

import math
from dataclasses import FrozenInstanceError, asdict, replace

import numpy as np
import pytest
import torch
from problems import problem
from tolerances import FLOAT32

from gloria_ops import LocalScore, local_scores
from gloria_ops.score import SCALES, TEMPERATURES

RANGE = r"a number from 1\.2e-38 to 3\.4e\+38, within float32"


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
        ("similarity", "euclid", "similarity is 'euclid'; expected one of 'dot', 'cosine', 'smooth_max'"),
        ("pool", "median", "pool is 'median'; expected one of 'logsumexp', 'softmax', 'max', 'mean', 'sum'"),
        ("direction", "i2i", "direction is 'i2i'; expected one of 't2i', 'i2t'"),
        ("attention_scale", math.nan, f"attention_scale is nan; expected {RANGE}, or infinity"),
        ("attention_scale", 0, f"attention_scale is 0.0; expected {RANGE}, or infinity"),
        ("word_scale", math.inf, f"word_scale is inf; expected {RANGE}"),
        ("word_scale", -1.0, f"word_scale is -1.0; expected {RANGE}"),
        ("logit_scale", math.nan, f"logit_scale is nan; expected {RANGE}"),
        ("attention_scale", 3.5e38, rf"attention_scale is 3\.5e\+38; expected {RANGE}, or infinity"),
        ("word_scale", 1e39, rf"word_scale is 1e\+39; expected {RANGE}"),
        ("word_scale", 1e-46, f"word_scale is 1e-46; expected {RANGE}"),
        ("logit_scale", 1.1e-38, f"logit_scale is 1.1e-38; expected {RANGE}"),
    ],
)
def test_values_refused(field, value, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        replace(LocalScore.released(), **{field: value})


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("word_scale", "5", f"word_scale is '5'; expected {RANGE}"),
        ("word_scale", True, f"word_scale is True; expected {RANGE}"),
        ("logit_scale", torch.tensor(10.0), rf"logit_scale is tensor\(10.\); expected {RANGE}"),
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
    with pytest.raises(ValueError, match=r"tau3 is inf; expected a number from 1\.2e-38 to 8\.3e\+37"):
        LocalScore.paper(tau2=1, tau3=math.inf)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_every_temperature_has_a_scale(temperature):
    score = LocalScore.paper(temperature, temperature)
    assert score.attention_scale == score.word_scale == score.logit_scale == 1 / temperature


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("knobs", [("attention_scale",), ("word_scale",), ("attention_scale", "word_scale")], ids=str)
def test_the_ends_of_the_range_are_within_float32(knobs, scale, backend):
    """Of cosines: what is beyond float32 then is not the scale, but its product with larger similarities."""
    one = problem("random", images=3, texts=4, most_regions=7, most_words=5, width=8)
    score = replace(LocalScore.released(), pool_divide=True, **dict.fromkeys(knobs, scale))
    truth = local_scores(one.regions, one.words, score=score)
    ours = local_scores(one.regions.float(), one.words.float(), score=score, backend=backend)
    torch.testing.assert_close(ours.double(), truth, **FLOAT32)
