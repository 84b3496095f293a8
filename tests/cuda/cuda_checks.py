"""What the CUDA kernels are checked with: problems, and how far from the truth they may be."""

import os

import torch
from problems import PRESETS, Problem
from tolerances import BACKWARD, FORWARD, error, rounding

from gloria_ops import LocalScore, local_scores, reference
from gloria_ops.tokens import canonical

# Schedules that each problem runs under: `make cuda-proof` sets more.
LONG = "GLORIA_CUDA_SCHEDULES" in os.environ
SCHEDULES = range(int(os.environ.get("GLORIA_CUDA_SCHEDULES", "1")))
SCORES = {
    "paper": PRESETS["paper"],
    "released": PRESETS["released"],
    "maxsim": PRESETS["maxsim"],
    "none, cosine": LocalScore(word_norm="none", pool="mean", attention_scale=2.0),
    "softmax, dot": LocalScore(similarity="dot", pool="sum"),
    "a scale that needs the maximum": LocalScore(attention_scale=50.0, pool_divide=True, pool_mean=True),
    "softmax, dot, a scale that needs the maximum": LocalScore(similarity="dot", pool="max", attention_scale=1e3),
}


def scores(given: Problem, score: LocalScore, padding: float = float("nan")) -> torch.Tensor:
    """From the CUDA backend, with `padding` behind every item."""
    regions, words = given.regions.clone(), given.words.clone()
    for rows, lengths in ((regions, given.region_lengths), (words, given.word_lengths)):
        behind = torch.arange(rows.shape[1], device=rows.device) >= lengths[:, None]
        rows.masked_fill_(behind[:, :, None], padding)
    return local_scores(regions, words, score=score, backend="cuda", **given.lengths)


def eager(given: Problem, score: LocalScore) -> torch.Tensor:
    batch = canonical(given.regions, given.words, **given.lengths)
    return reference.scores(batch.images, batch.texts, score)


def assert_as_accurate(found: torch.Tensor, given: Problem, score: LocalScore, slack: float = 1) -> None:
    truth, plain = eager(given.to(torch.float64), score), eager(given, score)
    allowed = slack * (FORWARD * error(plain, truth) + rounding(plain, truth))
    assert error(found, truth) <= allowed, f"errs by {error(found, truth):.3g}, eager by {error(plain, truth):.3g}"


def gradients(given: Problem, score: LocalScore) -> tuple[torch.Tensor, torch.Tensor]:
    """Those of regions and words from the CUDA backend, for the cotangent of the problem."""
    given = _requiring_gradients(given)
    found = local_scores(given.regions, given.words, score=score, backend="cuda", **given.lengths)
    return torch.autograd.grad(found, (given.regions, given.words), given.cotangent.to(found.dtype))


def eager_gradients(given: Problem, score: LocalScore) -> tuple[torch.Tensor, torch.Tensor]:
    """The same by the formulas, in the dtype of the problem."""
    given = _requiring_gradients(given)
    found = eager(given, score)
    return torch.autograd.grad(found, (given.regions, given.words), given.cotangent.to(found.dtype))


def _requiring_gradients(given: Problem) -> Problem:
    return given._replace(regions=given.regions.clone().requires_grad_(), words=given.words.clone().requires_grad_())


def assert_gradients_as_accurate(given: Problem, score: LocalScore, slack: float = 1) -> None:
    found, plain = gradients(given, score), eager_gradients(given, score)
    truth = eager_gradients(given.to(torch.float64), score)
    for side, ours, eagers, exact in zip(("regions", "words"), found, plain, truth, strict=True):
        allowed = slack * (BACKWARD * error(eagers, exact) + rounding(ours, exact))
        wrong = f"errs by {error(ours, exact):.3g} in {side}, eager by {error(eagers, exact):.3g}"
        assert error(ours, exact) <= allowed, wrong
