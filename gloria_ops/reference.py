"""The formulas of the local score in eager PyTorch, direct, in the dtype of the inputs: what kernels are held to."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from gloria_ops.learnable import FIXED, Learnable
from gloria_ops.score import LocalScore
from gloria_ops.tokens import Ragged

EPS = 1e-8


@torch.compiler.disable(reason="backend='reference' reads the lengths, so torch.compile breaks the graph there")
def scores(attended: Ragged, attending: Ragged, score: LocalScore, learnable: Learnable = FIXED) -> Tensor:
    """Return the scores of every attended item with every attending one, whatever `score.direction` says.

    The names are those of direction t2i, where images are attended and texts attend. One step of the loop scores one
    text against all images; nothing is fused, and everything is differentiable any number of times.

    Args:
        attended: N items, any floating dtype.
        attending: T items, of the same dtype.
        score: every combination of knobs.
        learnable: of the dtype of the rows.

    Returns:
        (N, T) in the dtype of the rows.
    """
    regions, real = padded(attended)
    weights, attention_scale, word_scale = learnable
    columns = []
    for start, length in zip(attending.starts.tolist(), attending.lengths.tolist(), strict=True):
        words = attending.rows[start : start + length]
        affinity = words @ regions.transpose(1, 2)
        if score.similarity == "smooth_max":
            similarities = smooth_maximum(affinity, score, real[:, None, :], attention_scale)
        else:
            context = attention(affinity, score, real[:, None, :], attention_scale) @ regions
            similarities = similarity(context, words, score)
        columns.append(pool(similarities, score, None if weights is None else weights[start:][:length], word_scale))
    return torch.stack(columns, dim=1)


def padded(side: Ragged) -> tuple[Tensor, Tensor]:
    """Return the rows as (N, L, D), L the greatest length, zeros behind each item, and the mask (N, L) of real rows."""
    rows, starts, lengths = side
    position = torch.arange(max(lengths.tolist()), device=rows.device)
    real = position < lengths[:, None]
    # Rows behind an item may belong to nobody and hold NaN: they are replaced, not multiplied by zero.
    index = torch.where(real, starts[:, None] + position, starts[:, None])
    return rows[index].masked_fill(~real[:, :, None], 0), real


def attention(
    affinity: Tensor, score: LocalScore, real: Tensor | None = None, scale: float | Tensor | None = None
) -> Tensor:
    """Attention of each word over the regions.

    Args:
        affinity: (..., W, M), the products of W words with M regions.
        score: its `word_norm` and `attention_scale`.
        real: bool, broadcastable to the affinity: False = padding among the regions. None: every region is real.
        scale: instead of the score's `attention_scale`.

    Returns:
        (..., W, M), rows sum to 1, 0 on padding.
    """
    scale = score.attention_scale if scale is None else scale
    hard = not isinstance(scale, Tensor) and math.isinf(scale)
    # The affinities of padding are zeros, and a norm of zero has no second derivative: any other number has.
    normed = word_norm(affinity if real is None else affinity.masked_fill(~real, 1), score)
    logits = normed if hard else scale * normed
    if real is not None:  # behind the scale, whose derivative would be infinity times 0
        logits = logits.masked_fill(~real, -math.inf)
    if not hard:
        return torch.softmax(logits, dim=-1)
    best = (logits == logits.amax(dim=-1, keepdim=True)).to(logits.dtype)
    return best / best.sum(dim=-1, keepdim=True)


def smooth_maximum(
    affinity: Tensor, score: LocalScore, real: Tensor | None = None, scale: float | Tensor | None = None
) -> Tensor:
    """Smooth maximum (..., W) of each word's affinities over the regions; arguments as in `attention`."""
    scale = score.attention_scale if scale is None else scale
    hard = not isinstance(scale, Tensor) and math.isinf(scale)
    logits = affinity if hard else scale * affinity
    if real is not None:
        logits = logits.masked_fill(~real, -math.inf)
    return logits.amax(dim=-1) if hard else torch.logsumexp(logits, dim=-1) / scale


def word_norm(affinity: Tensor, score: LocalScore) -> Tensor:
    """The affinity (..., W, M) normalised over the words."""
    if score.word_norm == "softmax":
        return torch.softmax(affinity, dim=-2)
    if score.word_norm.startswith("clipped"):
        affinity = F.leaky_relu(affinity, 0.1)
    if score.word_norm in ("none", "clipped"):
        return affinity
    order = 1 if score.word_norm.endswith("l1") else 2
    return affinity / (torch.linalg.vector_norm(affinity, order, dim=-2, keepdim=True) + EPS)


def similarity(context: Tensor, words: Tensor, score: LocalScore) -> Tensor:
    """Similarity (..., W) of each context (..., W, D) with its word (W, D)."""
    dot = (context * words).sum(dim=-1)
    if score.similarity == "dot":
        return dot
    norms = torch.linalg.vector_norm(context, dim=-1) * torch.linalg.vector_norm(words, dim=-1)
    return dot / norms.clamp(min=EPS)


def pool(
    similarities: Tensor, score: LocalScore, weights: Tensor | None = None, scale: float | Tensor | None = None
) -> Tensor:
    """The word similarities (..., W) of a text as one score (...).

    Args:
        similarities: of each word.
        score: its pool.
        weights: (W,), of each word; None = 1.
        scale: instead of the score's `word_scale`.
    """
    scale = score.word_scale if scale is None else scale
    if score.pool == "max":
        return similarities.amax(dim=-1)
    if score.pool in ("sum", "mean"):
        pooled = similarities.sum(dim=-1) if weights is None else (weights * similarities).sum(dim=-1)
        return pooled if score.pool == "sum" else pooled / _count(similarities, weights)
    logits = scale * similarities
    if weights is None:
        pooled, shares = torch.logsumexp(logits, dim=-1), torch.softmax(logits, dim=-1)
    else:  # not log(weight) in the exponent: a weight of 0 has a derivative
        top = logits.detach().amax(dim=-1, keepdim=True)
        terms = weights * (logits - top).exp()
        total = terms.sum(dim=-1, keepdim=True)
        pooled, shares = (total.log() + top).squeeze(-1), terms / total
    if score.pool == "softmax":
        return (shares * similarities).sum(dim=-1)
    if score.pool_mean:
        pooled = pooled - _count(similarities, weights).log()
    return pooled / scale if score.pool_divide else pooled


def _count(similarities: Tensor, weights: Tensor | None) -> Tensor:
    """The sum of the weights of all words, as a scalar."""
    if weights is None:
        return torch.tensor(float(similarities.shape[-1]), dtype=torch.float64, device=similarities.device)
    return weights.sum()
