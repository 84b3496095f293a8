"""Computes the contrastive losses of all pairs from each rank's rows of scores: only log-sum-exps travel."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gloria_ops.distributed.agreement import Layout
from gloria_ops.distributed.gather import all_gather, all_gather_uneven, all_to_all
from gloria_ops.functional import Reduction
from gloria_ops.precision import no_autocast


def spread_contrastive_losses(
    scores: Tensor, logit_scale: float | Tensor, reduction: Reduction, report_ids: Tensor | None, layout: Layout
) -> tuple[Tensor, Tensor]:
    """Compute `gloria_ops.functional.contrastive_losses` of all ranks' scores.

    Args:
        scores: (n_r, N), this rank's images with all texts.
        logit_scale, reduction: as in that function.
        report_ids: (n_r,) int64; an image and another image's text with equal ids are not negatives.
        layout: layout of the batch.

    Returns:
        (image_to_text, text_to_image) of the whole batch, the same bits on every rank. `local_contrastive_loss`
        explains the gradients.
    """
    with no_autocast(scores.device):
        logits = logit_scale * scores
        if report_ids is not None:
            all_ids = all_gather_uneven(report_ids, layout.counts, layout.group)
            logits = logits.masked_fill(~contrasted_pairs(report_ids, all_ids, layout.first), -torch.inf)
        return _CrossEntropies.apply(logits, 1 / sum(layout.counts) if reduction == "mean" else 1.0, layout)


def contrasted_pairs(report_ids: Tensor, all_ids: Tensor, first: int) -> Tensor:
    """Return which (image, text) pairs take part in the loss: a report's own image, and images whose report differs.

    Args:
        report_ids: (n,) integers of this rank's images, equal for equal reports.
        all_ids: (N,) integers of all texts.
        first: index of this rank's first text, 0 to N - n.

    Returns:
        (n, N) bool, True for matching pairs and for different ids.
    """
    own = torch.arange(first, first + report_ids.shape[0], device=report_ids.device)
    column = torch.arange(all_ids.shape[0], device=report_ids.device)
    return (own[:, None] == column) | (report_ids[:, None] != all_ids)


class _CrossEntropies(torch.autograd.Function):
    """Computes cross entropies over the rows and the columns of all ranks' logits; matching pairs are the positives."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, factor: float, layout: Layout) -> tuple[Tensor, Tensor]:
        """Sum over all rows and columns of the ranks' logits (n_r, N), times `factor`."""
        counts, group = layout.counts, layout.group
        positives = logits.diagonal(layout.first)
        of_images = logits.logsumexp(1)
        # Rank r sums the columns of its texts, and sends the sums to all.
        of_own_texts = all_to_all(logits.logsumexp(0), counts, group).logsumexp(0)
        of_texts = all_gather_uneven(of_own_texts, counts, group)
        own_sums = torch.stack([(of_images - positives).sum(), (of_own_texts - positives).sum()])
        ctx.save_for_backward(logits, of_images, of_texts)
        ctx.factor, ctx.layout = factor, layout
        image_to_text, text_to_image = factor * all_gather(own_sums, group).sum(0)
        return image_to_text, text_to_image

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        """Differentiate the sum of all ranks' losses, each times its upstream gradient there."""
        logits, of_images, of_texts = ctx.saved_tensors
        by_image, by_text = ctx.factor * all_gather(torch.stack(upstream), ctx.layout.group).sum(0)
        grad = by_image * (logits - of_images[:, None]).exp() + by_text * (logits - of_texts).exp()
        grad.diagonal(ctx.layout.first).sub_(by_image + by_text)
        return grad, None, None
