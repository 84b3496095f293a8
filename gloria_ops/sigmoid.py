"""SigLIP's loss, in which every pair is a yes or no of its own: over any matrix of scores, and over the local ones."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gloria_ops.functional import (
    OR_TARGETS,
    RELEASED,
    Reduction,
    check_pair_mask,
    check_reduction,
    check_square,
    checked_logit_scale,
    checked_weights,
    local_scores,
    reduced,
)
from gloria_ops.precision import no_autocast
from gloria_ops.score import LocalScore
from gloria_ops.targets import check_probabilities

SIGLIP_BIAS = -10.0


def sigmoid_loss(
    scores: Tensor,
    *,
    logit_scale: float | Tensor = 10.0,
    logit_bias: float | Tensor = SIGLIP_BIAS,
    reduction: Reduction = "mean",
    pair_mask: Tensor | None = None,
    targets: Tensor | None = None,
) -> Tensor:
    """Return the binary cross entropy over all pairs: whether this is the text of this image.

    With z_ij = 1 for pairs that belong together and -1 for all others (Zhai et al. 2023, algorithm 1)::

        1/N_v sum_ij -log sigmoid(z_ij (logit_scale * scores_ij + logit_bias))

    Args:
        scores: (N_v, N_t), rows images, columns texts, float32 or float64: those of `local_scores`, or any others. N_v
            = N_t but for a matrix of targets.
        logit_scale: multiplies the scores: a float, or a tensor of one element, which may be learnable. Default 10,
            where SigLIP starts.
        logit_bias: added to that, in the same forms; any finite number. Default -10, where SigLIP starts, whose scores
            are cosines: near it, a batch of N has N pairs in N². For scores that are not around 0, subtract
            logit_scale times a typical one.
        reduction: over the images, of the sums over their texts: "mean" (SigLIP), "sum" or "none".
        pair_mask: (N_v, N_t) bool: False = this pair takes no part, neither as yes nor as no.
        targets: (N_v, N_t) bool or real, the probability of yes, or (N,) integer ids: image i and text j of equal ids
            belong together. Default: the diagonal. Rows without a yes are fine.

    Returns:
        A scalar, or (N_v,) for reduction "none", of the dtype of the scores.

    Raises:
        TypeError, ValueError: an argument that does not fit, named with its value and the fix; on the CPU also targets
            beyond 0 to 1.
    """
    if targets is None:
        check_square(scores, OR_TARGETS)
    weights = checked_weights(targets, scores)
    if weights is not None:
        check_probabilities(weights)
    check_reduction(reduction)
    if pair_mask is not None:
        check_pair_mask(pair_mask, scores)
    return reduced(image_losses(scores, logit_scale, logit_bias, weights, pair_mask), reduction)


def local_sigmoid_loss(
    regions: Tensor,
    words: Tensor,
    *,
    score: LocalScore = RELEASED,
    backend: str | None = None,
    logit_scale: float | Tensor | None = None,
    logit_bias: float | Tensor = SIGLIP_BIAS,
    reduction: Reduction = "mean",
    pair_mask: Tensor | None = None,
    targets: Tensor | None = None,
    **described: Any,
) -> Tensor:
    """Return `sigmoid_loss` over the local scores of N images and their N texts.

    Args:
        regions, words, score, backend: as in `local_scores`.
        logit_scale: as in `sigmoid_loss`. Default: the score's own (released: 10).
        logit_bias, reduction, pair_mask, targets: as in `sigmoid_loss`.
        described: the other arguments of `local_scores`.

    Returns, raises:
        As `sigmoid_loss` and `local_scores`.
    """
    return sigmoid_loss(
        local_scores(regions, words, score=score, backend=backend, **described),
        logit_scale=score.logit_scale if logit_scale is None else logit_scale,
        logit_bias=logit_bias,
        reduction=reduction,
        pair_mask=pair_mask,
        targets=targets,
    )


def image_losses(
    scores: Tensor,
    logit_scale: float | Tensor,
    logit_bias: float | Tensor,
    weights: Tensor | None,
    pair_mask: Tensor | None,
    first: int = 0,
) -> Tensor:
    """Return the sum over the texts of the losses of each image's pairs, (N_v,).

    Args:
        scores: (N_v, N_t).
        logit_scale, logit_bias: as in `sigmoid_loss`.
        weights: (N_v, N_t), the probability of yes. None: image i belongs to text first + i.
        pair_mask: (N_v, N_t) bool, or None.
        first: see weights.
    """
    scale = checked_logit_scale(logit_scale, scores.dtype)
    bias = checked_logit_bias(logit_bias, scores.dtype)
    if weights is None:
        weights = torch.zeros_like(scores)
        weights.diagonal(first).fill_(1)
    with no_autocast(scores.device):
        losses = F.binary_cross_entropy_with_logits(scale * scores + bias, weights, reduction="none")
        return (losses if pair_mask is None else losses.masked_fill(~pair_mask, 0)).sum(1)


def checked_logit_bias(logit_bias: float | Tensor, dtype: torch.dtype) -> float | Tensor:
    """Return the checked bias on scores of `dtype`: a tensor as a scalar of it, a float as it is."""
    expected = "expected a finite number, or a tensor of one element"
    if isinstance(logit_bias, Tensor):
        if logit_bias.numel() != 1:
            raise ValueError(f"logit_bias has the shape {tuple(logit_bias.shape)}; {expected}")
        return logit_bias.to(dtype).reshape(())
    if isinstance(logit_bias, bool) or not hasattr(logit_bias, "__float__"):
        raise TypeError(f"logit_bias is {logit_bias!r}; {expected}")
    if not torch.compiler.is_compiling() and not abs(float(logit_bias)) < float("inf"):
        raise ValueError(f"logit_bias is {logit_bias}; {expected}")
    return logit_bias
