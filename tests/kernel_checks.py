"""What a fused kernel computes, what eager PyTorch computes, and how far the first may be from the truth."""

from collections.abc import Sequence
from contextlib import contextmanager

import torch
from problems import Problem
from tolerances import BACKWARD, FORWARD, error, rounding
from torch import Tensor

from gloria_ops import LocalScore, local_scores, reference
from gloria_ops.tokens import canonical

Results = Sequence[Tensor]  # scores, and the gradients of regions and words


@contextmanager
def threads(count: int):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fused(given_problem: Problem, score: LocalScore) -> Results:
    """From the kernels."""
    regions, words = given_problem.regions.clone().requires_grad_(), given_problem.words.clone().requires_grad_()
    scores = local_scores(regions, words, score=score, backend="cpu", **given_problem.lengths)
    assert scores.dtype == torch.float32
    return scores.detach(), *torch.autograd.grad(scores, (regions, words), given_problem.cotangent.float())


def eager(given_problem: Problem, score: LocalScore) -> Results:
    """From the formulas in eager PyTorch, in the dtype of the problem."""
    regions, words = given_problem.regions.clone().requires_grad_(), given_problem.words.clone().requires_grad_()
    batch = canonical(regions, words, **given_problem.lengths)
    if score.direction == "i2t":
        scores = reference.scores(batch.texts, batch.images, score).T
    else:
        scores = reference.scores(batch.images, batch.texts, score)
    return scores.detach(), *torch.autograd.grad(scores, (regions, words), given_problem.cotangent.to(scores.dtype))


def assert_as_accurate(
    ours: Results,
    plain: Results,
    truth: Results,
    slack: float,
    names: Sequence[str] = ("scores", "grad_regions", "grad_words"),
) -> None:
    """`plain` is eager PyTorch in the dtype of `ours`, `truth` in float64; gradients are named grad_*."""
    for name, kernel, same_dtype, exact in zip(names, ours, plain, truth, strict=True):
        factor = BACKWARD if name.startswith("grad_") else FORWARD
        found, of_eager = error(kernel, exact), error(same_dtype, exact)
        allowed = slack * (factor * of_eager + rounding(kernel, exact))
        assert found <= allowed, f"{name} err by {found:.3g}, eager by {of_eager:.3g}"


def assert_as_accurate_as_eager(rounded: Problem, score: LocalScore) -> None:
    assert_as_accurate(fused(rounded, score), eager(rounded, score), eager(rounded.to(torch.float64), score), slack=1)
