"""What a fused kernel computes, what eager PyTorch computes, and how far the first may be from the truth."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from itertools import product

import torch
from problems import Problem
from tolerances import BACKWARD, FORWARD, error, rounding
from torch import Tensor

from gloria_ops import LocalScore, local_scores, reference
from gloria_ops.learnable import Learnable
from gloria_ops.tokens import canonical

Results = Sequence[Tensor]  # scores, and the gradients of regions, words and what else is learned
NAMES = ("scores", "grad_regions", "grad_words")


@contextmanager
def threads(count: int):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_each(check: Callable[..., None], *values: Iterable[object]) -> None:
    """Check every combination of values; a failure names its own.

    A test for each would take pytest longer than the check.
    """
    for each in product(*values):
        try:
            check(*each)
        except AssertionError as failure:
            raise AssertionError(f"with {', '.join(map(str, each))}: {failure}") from failure


def fused(given_problem: Problem, score: LocalScore, backend: str = "cpu") -> Results:
    """From the kernels of a backend."""
    regions, words = given_problem.regions.clone().requires_grad_(), given_problem.words.clone().requires_grad_()
    learned = {name: value.float().requires_grad_() for name, value in given_problem.learned.items()}
    scores = local_scores(regions, words, score=score, backend=backend, **given_problem.lengths, **learned)
    assert scores.dtype == torch.float32
    inputs = (regions, words, *learned.values())
    return scores.detach(), *torch.autograd.grad(scores, inputs, given_problem.cotangent.float())


def eager(given_problem: Problem, score: LocalScore) -> Results:
    """From the formulas in eager PyTorch, in the dtype of the problem."""
    regions, words = given_problem.regions.clone().requires_grad_(), given_problem.words.clone().requires_grad_()
    learned = {name: value.clone().requires_grad_() for name, value in given_problem.learned.items()}
    batch = canonical(regions, words, **given_problem.lengths)
    flat = {name: value.flatten() if value.dim() else value for name, value in learned.items()}
    if score.direction == "i2t":
        scores = reference.scores(batch.texts, batch.images, score, Learnable(**flat)).T
    else:
        scores = reference.scores(batch.images, batch.texts, score, Learnable(**flat))
    inputs = (regions, words, *learned.values())
    return scores.detach(), *torch.autograd.grad(scores, inputs, given_problem.cotangent.to(scores.dtype))


def assert_as_accurate(
    ours: Results,
    plain: Results,
    truth: Results,
    slack: float,
    names: Sequence[str] = NAMES,
    owed: Mapping[str, float] = {},
) -> None:
    """`plain` is eager PyTorch in the dtype of `ours`, `truth` in float64; gradients are named grad_*.

    `owed` is by name what a result may err even where eager PyTorch does not; at least one rounding of its own.
    """
    for name, kernel, same_dtype, exact in zip(names, ours, plain, truth, strict=True):
        factor = BACKWARD if name.startswith("grad_") else FORWARD
        found, of_eager = error(kernel, exact), error(same_dtype, exact)
        allowed = slack * (factor * of_eager + max(rounding(kernel, exact), owed.get(name, 0.0)))
        assert found <= allowed, f"{name} err by {found:.3g}, eager by {of_eager:.3g}"


def in_orders(compute: Callable[[Problem], Results], given_problem: Problem, count: int) -> Results:
    """What `compute` finds with the dimensions of the width in `count` orders, each (count, ...), gradients put back.

    The order has no meaning, so together the results show what rounding does, which one alone owes to luck.
    """
    found = []
    for seed in range(count):
        width = given_problem.words.shape[-1]
        order = torch.randperm(width, generator=torch.Generator().manual_seed(seed))
        scores, grad_regions, grad_words, *rest = compute(
            given_problem._replace(regions=given_problem.regions[..., order], words=given_problem.words[..., order])
        )
        back = order.argsort()
        found.append((scores, grad_regions[..., back], grad_words[..., back], *rest))
    return [torch.stack(each) for each in zip(*found, strict=True)]


def assert_as_accurate_as_eager(rounded: Problem, score: LocalScore, orders: int = 1) -> None:
    """The rule of `tolerances`; with several `orders`, of the errors of all of them.

    Where one order breaks the rule, sixteen say whether that was luck, ours or eager PyTorch's.
    """
    plain, truth = _plain_and_truth(_ByContent(rounded), score, orders)
    ours = in_orders(partial(fused, score=score), rounded, orders)
    try:
        assert_as_accurate(ours, plain, truth, slack=1, names=names_of(rounded))
    except AssertionError:
        if orders > 1:
            raise
        assert_as_accurate_as_eager(rounded, score, orders=16)


def names_of(given_problem: Problem) -> Sequence[str]:
    """Of its results."""
    return *NAMES, *(f"grad_{name}" for name in given_problem.learned)


class _ByContent:
    """A problem that equals those of the same numbers."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        tensors = (*problem[:-1], *problem.learned.values())
        self._content = tuple(
            (each.dtype, each.shape, each.reshape(-1).view(torch.uint8).numpy().tobytes()) for each in tensors
        )

    def __hash__(self) -> int:
        return hash(self._content)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByContent) and self._content == other._content


@lru_cache(maxsize=512)  # as many as a test has for each engine, which all meet the same problems
def _plain_and_truth(rounded: _ByContent, score: LocalScore, orders: int) -> tuple[Results, Results]:
    """Eager PyTorch's results in the dtype of the problem and in float64."""
    truth = [each.expand(orders, *each.shape) for each in eager(rounded.problem.to(torch.float64), score)]
    return in_orders(partial(eager, score=score), rounded.problem, orders), truth
