"""The formulas of the local score in eager PyTorch, direct, in the dtype of the inputs: what kernels are held to."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from gloria_ops.score import LocalScore
from gloria_ops.tokens import Ragged

EPS = 1e-8


@torch.compiler.disable(reason="backend='reference' reads the lengths, so torch.compile breaks the graph there")
def scores(attended: Ragged, attending: Ragged, score: LocalScore) -> Tensor:
    """Return the scores of every attended item with every attending one, whatever `score.direction` says.

    The names are those of direction t2i, where images are attended and texts attend. One step of the loop scores one
    text against all images; nothing is fused, and everything is differentiable any number of times.

    Args:
        attended: N items, any floating dtype.
        attending: T items, of the same dtype.
        score: every combination of knobs.

    Returns:
        (N, T) in the dtype of the rows.
    """
    regions, real = padded(attended)
    columns = []
    for start, length in zip(attending.starts.tolist(), attending.lengths.tolist(), strict=True):
        words = attending.rows[start : start + length]
        weights = attention(words @ regions.transpose(1, 2), score, real[:, None, :])
        columns.append(pool(similarity(weights @ regions, words, score), score))
    return torch.stack(columns, dim=1)


def padded(side: Ragged) -> tuple[Tensor, Tensor]:
    """Return the rows as (N, L, D), L the greatest length, zeros behind each item, and the mask (N, L) of real rows."""
    rows, starts, lengths = side
    position = torch.arange(max(lengths.tolist()), device=rows.device)
    real = position < lengths[:, None]
    # Rows behind an item may belong to nobody and hold NaN: they are replaced, not multiplied by zero.
    index = torch.where(real, starts[:, None] + position, starts[:, None])
    return rows[index].masked_fill(~real[:, :, None], 0), real


def attention(affinity: Tensor, score: LocalScore, real: Tensor | None = None) -> Tensor:
    """Attention of each word over the regions.

    Args:
        affinity: (..., W, M), the products of W words with M regions.
        score: its `word_norm` and `attention_scale`.
        real: bool, broadcastable to the affinity: False = padding among the regions. None: every region is real.

    Returns:
        (..., W, M), rows sum to 1, 0 on padding.
    """
    if real is None:
        logits = word_norm(affinity, score)
    else:
        # The affinities of padding are zeros, and a norm of zero has no second derivative: any other number has.
        logits = word_norm(affinity.masked_fill(~real, 1), score).masked_fill(~real, -math.inf)
    if math.isfinite(score.attention_scale):
        return torch.softmax(score.attention_scale * logits, dim=-1)
    best = (logits == logits.amax(dim=-1, keepdim=True)).to(logits.dtype)
    return best / best.sum(dim=-1, keepdim=True)


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


def pool(similarities: Tensor, score: LocalScore) -> Tensor:
    """The word similarities (..., W) of a text as one score (...)."""
    if score.pool == "max":
        return similarities.amax(dim=-1)
    if score.pool == "mean":
        return similarities.mean(dim=-1)
    if score.pool == "sum":
        return similarities.sum(dim=-1)
    pooled = torch.logsumexp(score.word_scale * similarities, dim=-1)
    if score.pool_mean:
        pooled = pooled - math.log(similarities.shape[-1])
    return pooled / score.word_scale if score.pool_divide else pooled
