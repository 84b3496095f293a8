"""The fused scores as torch.library custom ops: schema, fake kernels, autograd. Backward is an op itself.

Both take the canonical form of `gloria_ops.tokens`, the knobs of `LocalScore` as primitives, and the name of a fused
backend.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from gloria_ops.backends import FUSED
from gloria_ops.score import LocalScore

DOUBLE_BACKWARD = (
    "double backward through the fused local scores is not implemented: gloria_ops::scores_backward has no gradient of "
    'its own; take backend="reference", which is differentiable any number of times'
)


@torch.library.custom_op("gloria_ops::scores", mutates_args=())
def scores(
    regions: Tensor,
    region_starts: Tensor,
    region_lengths: Tensor,
    words: Tensor,
    word_starts: Tensor,
    word_lengths: Tensor,
    word_norm: str,
    attention_scale: float,
    similarity: str,
    pool: str,
    word_scale: float,
    pool_mean: bool,
    pool_divide: bool,
    backend: str,
) -> Tensor:
    """Scores (N_v, N_t) float32 of words attending to regions."""
    score = _score(word_norm, attention_scale, similarity, pool, word_scale, pool_mean, pool_divide)
    return FUSED[backend].forward(regions, region_starts, region_lengths, words, word_starts, word_lengths, score)


@torch.library.custom_op("gloria_ops::scores_backward", mutates_args=())
def scores_backward(
    grad_scores: Tensor,
    regions: Tensor,
    region_starts: Tensor,
    region_lengths: Tensor,
    words: Tensor,
    word_starts: Tensor,
    word_lengths: Tensor,
    word_norm: str,
    attention_scale: float,
    similarity: str,
    pool: str,
    word_scale: float,
    pool_mean: bool,
    pool_divide: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Gradients of `regions` and `words`, of their shape and dtype, from that of the scores (N_v, N_t) float32."""
    score = _score(word_norm, attention_scale, similarity, pool, word_scale, pool_mean, pool_divide)
    return FUSED[backend].backward(
        grad_scores.contiguous(), regions, region_starts, region_lengths, words, word_starts, word_lengths, score
    )


def knobs(score: LocalScore) -> tuple[str, float, str, str, float, bool, bool]:
    """The knobs as the ops take them: not the direction, for which the caller exchanges sides, nor the logit scale."""
    return (
        score.word_norm,
        score.attention_scale,
        score.similarity,
        score.pool,
        score.word_scale,
        score.pool_mean,
        score.pool_divide,
    )


@lru_cache  # its checks would cost a small problem more than the kernels do
def _score(
    word_norm: Any,
    attention_scale: float,
    similarity: Any,
    pool: Any,
    word_scale: float,
    pool_mean: bool,
    pool_divide: bool,
) -> LocalScore:
    return LocalScore(
        word_norm=word_norm,
        attention_scale=attention_scale,
        similarity=similarity,
        pool=pool,
        word_scale=word_scale,
        pool_mean=pool_mean,
        pool_divide=pool_divide,
    )


@scores.register_fake
def _(
    regions: Tensor,
    region_starts: Tensor,
    region_lengths: Tensor,
    words: Tensor,
    word_starts: Tensor,
    *rest: Any,
) -> Tensor:
    return regions.new_empty((region_starts.shape[0], word_starts.shape[0]), dtype=torch.float32)


@scores_backward.register_fake
def _(
    grad_scores: Tensor,
    regions: Tensor,
    region_starts: Tensor,
    region_lengths: Tensor,
    words: Tensor,
    *rest: Any,
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(regions), torch.empty_like(words)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:6])
    ctx.knobs_and_backend = inputs[6:]


def _differentiate(ctx: Any, grad_scores: Tensor) -> tuple[Tensor | None, ...]:
    gradients = _ScoresBackward.apply if torch._C._are_functorch_transforms_active() else scores_backward
    grad_regions, grad_words = gradients(grad_scores, *ctx.saved_tensors, *ctx.knobs_and_backend)
    return grad_regions, None, None, grad_words, *[None] * (2 + len(ctx.knobs_and_backend))


def _remember_nothing(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    """torch.func refuses a function without a setup_context even where nobody differentiates it."""


def _refuse(ctx: Any, *grads: Tensor) -> None:
    raise NotImplementedError(DOUBLE_BACKWARD)


scores.register_autograd(_differentiate, setup_context=_remember)
scores_backward.register_autograd(_refuse)


class _Scores(torch.autograd.Function):
    """The op under torch.func, whose transforms refuse what register_autograd makes (pytorch issue 170834)."""

    generate_vmap_rule = True
    setup_context = staticmethod(_remember)
    backward = staticmethod(_differentiate)

    @staticmethod
    def forward(*args: Any) -> Tensor:
        return scores(*args)


class _ScoresBackward(torch.autograd.Function):
    """The backward op under torch.func."""

    generate_vmap_rule = True
    setup_context = staticmethod(_remember_nothing)
    backward = staticmethod(_refuse)

    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, Tensor]:
        return scores_backward(*args)


def differentiable_scores(*args: Any) -> Tensor:
    """`scores`, under torch.func transforms as well."""
    return _Scores.apply(*args) if torch._C._are_functorch_transforms_active() else scores(*args)
