"""The fused scores as torch.library custom ops: schema, fake kernels, autograd. Backward is an op itself.

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

DOUBLE_BACKWARD = (
    "double backward through the fused local scores is not implemented: gloria_ops::scores_backward has no gradient of "
    'its own; take backend="reference", which is differentiable any number of times'
)
FORWARD_MODE = (
    "forward-mode differentiation (jvp, jacfwd, dual tensors) through the fused local scores is not implemented; take "
    'backend="reference", which has it, or reverse mode'
)


@torch.library.custom_op("gloria_ops::scores", mutates_args=(), schema=f"({INPUTS}) -> Tensor")
def scores(*flat: Any) -> Tensor:
    """Scores float32 (N, T) of N attended items with T attending ones, or (P,) of pairs (P, 2) of such items."""
    _refuse_tangents(flat)
    return _forward(*_grouped(flat))


@torch.library.custom_op(
    "gloria_ops::scores_backward",
    mutates_args=(),
    schema=f"(Tensor grad_scores, {INPUTS}) -> (Tensor, Tensor{', Tensor' * len(Learnable._fields)})",
)
def scores_backward(grad_scores: Tensor, *flat: Any) -> tuple[Tensor, ...]:
    """Gradients of the rows of both sides and of all of `Learnable`, of their shape and dtype, from that of the scores.

    Where one is None its gradient is a tensor without elements: an op returns no None.
    """
    _refuse_tangents((grad_scores, *flat))
    attended, attending, learnable, pairs, score, backend = _grouped(flat)
    if pairs is None:
        found = BACKENDS[backend].backward(grad_scores, attended, attending, score, learnable)
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
    return _Scores.apply(*flat) if torch._C._are_functorch_transforms_active() else scores(*flat)


def flattened(
    attended: Ragged,
    attending: Ragged,
    score: LocalScore,
    backend: str,
    learnable: Learnable = FIXED,
    pairs: Tensor | None = None,
) -> tuple[Any, ...]:
    """Return what `scores` takes."""
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
) -> Tensor:
    if pairs is None:
        return BACKENDS[backend].forward(attended, attending, score, learnable=learnable)
    return chosen.forward(BACKENDS[backend], attended, attending, pairs, score, learnable)


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
def _(*flat: Any) -> Tensor:
    attended, attending, _, pairs, *_ = _grouped(flat)
    shape = (attended.starts.shape[0], attending.starts.shape[0]) if pairs is None else pairs.shape[:1]
    return attended.rows.new_empty(shape, dtype=torch.float32)


@scores_backward.register_fake
def _(grad_scores: Tensor, *flat: Any) -> tuple[Tensor, ...]:
    attended, attending, learnable, *_ = _grouped(flat)
    absent = (grad_scores.new_empty(0) if each is None else torch.empty_like(each) for each in learnable)
    return torch.empty_like(attended.rows), torch.empty_like(attending.rows), *absent


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:_TENSORS])
    ctx.knobs_and_backend = inputs[_TENSORS:]


def _differentiate(ctx: Any, grad_scores: Tensor) -> tuple[Tensor | None, ...]:
    gradients = _ScoresBackward.apply if torch._C._are_functorch_transforms_active() else scores_backward
    inputs = ctx.saved_tensors
    found = gradients(grad_scores, *inputs, *ctx.knobs_and_backend)
    by_place = dict(zip((*_ROWS, *range(_LEARNABLE, _PAIRS)), found, strict=True))
    of_tensors = (None if each is None else by_place.get(place) for place, each in enumerate(inputs))
    return *of_tensors, *[None] * len(ctx.knobs_and_backend)


def _save_nothing(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    """torch.func refuses a function without a setup_context even where nobody differentiates it."""


def _refuse_double_backward(ctx: Any, *grads: Tensor) -> None:
    raise NotImplementedError(DOUBLE_BACKWARD)


def _refuse_forward_mode(ctx: Any, *tangents: Tensor) -> None:
    raise NotImplementedError(FORWARD_MODE)


scores.register_autograd(_differentiate, setup_context=_save)
scores_backward.register_autograd(_refuse_double_backward)


class _Scores(torch.autograd.Function):
    """The op under torch.func, whose transforms refuse what register_autograd makes (pytorch issue 170834)."""

    generate_vmap_rule = True
    setup_context = staticmethod(_save)
    backward = staticmethod(_differentiate)
    jvp = staticmethod(_refuse_forward_mode)

    @staticmethod
    def forward(*flat: Any) -> Tensor:
        return scores(*flat)


class _ScoresBackward(torch.autograd.Function):
    """The backward op under torch.func."""

    generate_vmap_rule = True
    setup_context = staticmethod(_save_nothing)
    backward = staticmethod(_refuse_double_backward)
    jvp = staticmethod(_refuse_forward_mode)

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, ...]:
        return scores_backward(*arguments)
