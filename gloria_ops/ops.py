"""The fused scores as torch.library custom ops: schema, fake kernels, autograd. Backward is an op itself.

Of a hard maximum forward may keep which row is the best for each other one, which backward then need not look for.

An op takes tensors and primitives only. This file alone knows them as a flat list: the tensors of both `Ragged` sides,
those of `Learnable`, the chosen pairs, the knobs of `LocalScore`, and the name of a backend.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from gloria_ops import chosen
from gloria_ops.backends import BACKENDS
from gloria_ops.learnable import FIXED, Learnable
from gloria_ops.score import LocalScore
from gloria_ops.tokens import Ragged

SIDES = ", ".join(f"Tensor {side}_{part}" for side in ("attended", "attending") for part in Ragged._fields)
LEARNABLE = ", ".join(f"Tensor? learnable_{name}" for name in Learnable._fields)
# Not the direction, for which the caller exchanges the sides, nor the logit scale, which multiplies in the loss.
KNOBS = (
    "str word_norm, float attention_scale, str similarity, str pool, float word_scale, bool pool_mean, bool pool_divide"
)
_KNOB_NAMES = tuple(knob.split()[1] for knob in KNOBS.split(", "))
_PARTS = len(Ragged._fields)
_ROWS = (0, _PARTS)
_LEARNABLE = 2 * _PARTS
_PAIRS = _LEARNABLE + len(Learnable._fields)
_TENSORS = _PAIRS + 1
INPUTS = f"{SIDES}, {LEARNABLE}, Tensor? pairs, {KNOBS}, str backend"

# What is kept of a hard maximum takes at most so much: 4 bytes for each attended item and attending row, which is a
# batch of 1,448 with 32 words each.
KEPT_BYTES = 2**28

DOUBLE_BACKWARD = (
    "double backward through the fused local scores is not implemented: gloria_ops::scores_backward has no gradient of "
    'its own; take backend="reference", which is differentiable any number of times'
)
FORWARD_MODE = (
    "forward-mode differentiation (jvp, jacfwd, dual tensors) through the fused local scores is not implemented; take "
    'backend="reference", which has it, or reverse mode'
)


@torch.library.custom_op(
    "gloria_ops::scores", mutates_args=(), schema=f"(bool keeps_best, {INPUTS}) -> (Tensor, Tensor)"
)
def scores(keeps_best: bool, *flat: Any) -> tuple[Tensor, Tensor]:
    """Scores float32 (N, T) of N attended items with T attending ones, or (P,) of pairs (P, 2) of such items.

    And `best` for backward (see `Backend.forward`), without elements where it is not kept.
    """
    _refuse_tangents(flat)
    attended, attending, learnable, pairs, score, backend = _grouped(flat)
    best = _empty_best(keeps_best, attended, attending)
    return _forward(attended, attending, learnable, pairs, score, backend, best if keeps_best else None), best


@torch.library.custom_op(
    "gloria_ops::scores_backward",
    mutates_args=(),
    schema=f"(Tensor grad_scores, Tensor best, {INPUTS}) -> (Tensor, Tensor{', Tensor' * len(Learnable._fields)})",
)
def scores_backward(grad_scores: Tensor, best: Tensor, *flat: Any) -> tuple[Tensor, ...]:
    """Gradients of the rows of both sides and of all of `Learnable`, of their shape and dtype, from that of the scores.

    `best` is what forward kept.

    Where one is None its gradient is a tensor without elements: an op returns no None.
    """
    _refuse_tangents((grad_scores, *flat))
    attended, attending, learnable, pairs, score, backend = _grouped(flat)
    if pairs is None:
        kept = best if best.numel() > 0 else None
        found = BACKENDS[backend].backward(grad_scores, attended, attending, score, learnable, kept)
    else:
        found = chosen.backward(BACKENDS[backend], grad_scores, attended, attending, pairs, score, learnable)
    gradients = iter(found[2:])
    return *found[:2], *(grad_scores.new_empty(0) if each is None else next(gradients) for each in learnable)


def differentiable_scores(
    attended: Ragged,
    attending: Ragged,
    score: LocalScore,
    backend: str,
    learnable: Learnable = FIXED,
    pairs: Tensor | None = None,
) -> Tensor:
    """Return scores of a backend, differentiable in the rows of both sides and what is learnable, under torch.func too.

    Args:
        pairs: (P, 2) int64 of (attended, attending); None = every one with every other.

    Returns:
        (N, T), or (P,) for pairs.
    """
    if BACKENDS[backend].differentiable:
        return _forward(attended, attending, learnable, pairs, score, backend)
    flat = flattened(attended, attending, score, backend, learnable, pairs)
    if not torch.compiler.is_compiling():  # the op itself refuses when the graph runs
        _refuse_tangents(flat)
    keeps_best = (
        score.attention_scale == float("inf")
        and pairs is None
        and BACKENDS[backend].keeps_best
        and 4 * attended.starts.shape[0] * attending.rows.shape[0] <= KEPT_BYTES
        and torch.is_grad_enabled()
        and any(each.requires_grad for each in (attended.rows, attending.rows, *learnable.given))
    )
    op = scores if torch.compiler.is_compiling() else _Scores.apply
    return op(keeps_best, *flat)[0]


def flattened(
    attended: Ragged,
    attending: Ragged,
    score: LocalScore,
    backend: str,
    learnable: Learnable = FIXED,
    pairs: Tensor | None = None,
) -> tuple[Any, ...]:
    """Return what `scores` takes after `keeps_best`, and `scores_backward` after `best`."""
    return (*attended, *attending, *learnable, pairs, *[getattr(score, name) for name in _KNOB_NAMES], backend)


def _grouped(flat: tuple[Any, ...]) -> tuple[Ragged, Ragged, Learnable, Tensor | None, LocalScore, str]:
    sides = Ragged(*flat[:_PARTS]), Ragged(*flat[_PARTS:_LEARNABLE])
    return *sides, Learnable(*flat[_LEARNABLE:_PAIRS]), flat[_PAIRS], _score(*flat[_TENSORS:-1]), flat[-1]


def _forward(
    attended: Ragged,
    attending: Ragged,
    learnable: Learnable,
    pairs: Tensor | None,
    score: LocalScore,
    backend: str,
    best: Tensor | None = None,
) -> Tensor:
    if pairs is None:
        return BACKENDS[backend].forward(attended, attending, score, learnable=learnable, best=best)
    return chosen.forward(BACKENDS[backend], attended, attending, pairs, score, learnable)


def _empty_best(kept: bool, attended: Ragged, attending: Ragged) -> Tensor:
    shape = (attended.starts.shape[0], attending.rows.shape[0]) if kept else (0,)
    return attended.rows.new_empty(shape, dtype=torch.int32)


@lru_cache  # its checks would cost a small problem more than the kernels do
def _score(*knobs: Any) -> LocalScore:
    return LocalScore(**dict(zip(_KNOB_NAMES, knobs, strict=True)))


def _refuse_tangents(arguments: tuple[Any, ...]) -> None:
    """Raise NotImplementedError where a tensor has a tangent, which torch would drop without a word."""
    level = forward_ad._current_level
    if level >= 0 and any(
        forward_ad.unpack_dual(each, level=level).tangent is not None for each in arguments if isinstance(each, Tensor)
    ):
        raise NotImplementedError(FORWARD_MODE)


@scores.register_fake
def _(keeps_best: bool, *flat: Any) -> tuple[Tensor, Tensor]:
    attended, attending, _, pairs, *_ = _grouped(flat)
    shape = (attended.starts.shape[0], attending.starts.shape[0]) if pairs is None else pairs.shape[:1]
    return attended.rows.new_empty(shape, dtype=torch.float32), _empty_best(keeps_best, attended, attending)


@scores_backward.register_fake
def _(grad_scores: Tensor, best: Tensor, *flat: Any) -> tuple[Tensor, ...]:
    attended, attending, learnable, *_ = _grouped(flat)
    absent = (grad_scores.new_empty(0) if each is None else torch.empty_like(each) for each in learnable)
    return torch.empty_like(attended.rows), torch.empty_like(attending.rows), *absent


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _, *flat = inputs
    ctx.set_materialize_grads(False)  # `best` gets none, and zeros in its place would be of its size
    ctx.save_for_backward(output[1], *flat[:_TENSORS])
    ctx.knobs_and_backend = flat[_TENSORS:]


def _differentiate(ctx: Any, grad_scores: Tensor, _: None) -> tuple[Tensor | None, ...]:
    gradients = _ScoresBackward.apply if torch._C._are_functorch_transforms_active() else scores_backward
    best, *inputs = ctx.saved_tensors
    found = gradients(grad_scores, best, *inputs, *ctx.knobs_and_backend)
    by_place = dict(zip((*_ROWS, *range(_LEARNABLE, _PAIRS)), found, strict=True))
    of_tensors = (None if each is None else by_place.get(place) for place, each in enumerate(inputs))
    return None, *of_tensors, *[None] * len(ctx.knobs_and_backend)


def _save_nothing(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    """torch.func refuses a function without a setup_context even where nobody differentiates it."""


def _refuse_double_backward(ctx: Any, *grads: Tensor) -> None:
    raise NotImplementedError(DOUBLE_BACKWARD)


def _refuse_forward_mode(ctx: Any, *tangents: Tensor) -> None:
    raise NotImplementedError(FORWARD_MODE)


scores.register_autograd(_differentiate, setup_context=_save)
scores_backward.register_autograd(_refuse_double_backward)


class _Scores(torch.autograd.Function):
    """The op outside of a compiler: torch.func refuses what register_autograd makes (pytorch issue 170834), which takes
    longer, too, by a time that is quadratic in the number of arguments.
    """

    generate_vmap_rule = True
    setup_context = staticmethod(_save)
    backward = staticmethod(_differentiate)
    jvp = staticmethod(_refuse_forward_mode)

    @staticmethod
    def forward(keeps_best: bool, *flat: Any) -> tuple[Tensor, Tensor]:
        return scores(keeps_best, *flat)


class _ScoresBackward(torch.autograd.Function):
    """The backward op under torch.func."""

    generate_vmap_rule = True
    setup_context = staticmethod(_save_nothing)
    backward = staticmethod(_refuse_double_backward)
    jvp = staticmethod(_refuse_forward_mode)

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, ...]:
        return scores_backward(*arguments)
