"""Computes the contrastive losses of all pairs from each rank's rows of scores: only log-sum-exps travel."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gloria_ops.distributed.agreement import Layout
from gloria_ops.distributed.gather import all_gather, all_gather_uneven, all_to_all
from gloria_ops.distributed.share import Share
from gloria_ops.distributed.targets import column_sums, spread_pair_mask, spread_weights
from gloria_ops.functional import Reduction
from gloria_ops.precision import no_autocast
from gloria_ops.targets import check_sums


def spread_contrastive_losses(
    scores: Tensor, reduction: Reduction, share: Share, layout: Layout
) -> tuple[Tensor, Tensor]:
    """Compute `gloria_ops.contrastive_losses` of all ranks' scores.

    Args:
        scores: (n_r, N), this rank's images with all texts.
        reduction: as in that function.
        share: has logit_scale, report_ids and targets. An image and another image's text with equal report ids are not
            negatives.
        layout: layout of the batch.

    Returns:
        (image_to_text, text_to_image) of the whole batch, the same bits on every rank. `local_contrastive_loss`
        explains the gradients.
    """
    weights = spread_weights(share, layout, scores.dtype)
    shares = None
    if weights is not None:
        sums = column_sums(weights, layout)
        check_sums(sums, "column")
        shares = weights / weights.sum(1, keepdim=True), weights / sums
    pair_mask = spread_pair_mask(share, layout)
    with no_autocast(scores.device):
        logits = share.logit_scale * scores
        if pair_mask is not None:
            logits = logits.masked_fill(~pair_mask, -torch.inf)
        return _CrossEntropies.apply(logits, shares, 1 / sum(layout.counts) if reduction == "mean" else 1.0, layout)


class _CrossEntropies(torch.autograd.Function):
    """Computes cross entropies over the rows and the columns of all ranks' logits."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, shares: tuple[Tensor, Tensor] | None, factor: float, layout: Layout
    ) -> tuple[Tensor, Tensor]:
        """Sum over all rows and columns of the ranks' logits.

        Args:
            logits: (n_r, N), this rank's images with all texts.
            shares: (n_r, N) each, every text's share in its image's distribution, and every image's share in its
                text's; only without report ids. None: matching pairs are the positives.
            factor: multiplies the sums.
            layout: layout of the batch.
        """
        counts, group = layout.counts, layout.group
        own = logits.diagonal(layout.first)
        positives = (own, own) if shares is None else tuple((each * logits).sum(1) for each in shares)
        of_images = logits.logsumexp(1)
        # Rank r sums the columns of its texts, and sends the sums to all.
        of_own_texts = all_to_all(logits.logsumexp(0), counts, group).logsumexp(0)
        of_texts = all_gather_uneven(of_own_texts, counts, group)
        own_sums = torch.stack([(of_images - positives[0]).sum(), (of_own_texts - positives[1]).sum()])
        ctx.save_for_backward(logits, of_images, of_texts, *(shares or ()))
        ctx.factor, ctx.layout = factor, layout
        image_to_text, text_to_image = factor * all_gather(own_sums, group).sum(0)
        return image_to_text, text_to_image

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None, None]:
        """Differentiate the sum of all ranks' losses, each times its upstream gradient there."""
        logits, of_images, of_texts, *shares = ctx.saved_tensors
        by_image, by_text = ctx.factor * all_gather(torch.stack(upstream), ctx.layout.group).sum(0)
        grad = by_image * (logits - of_images[:, None]).exp() + by_text * (logits - of_texts).exp()
        if shares:
            grad -= by_image * shares[0] + by_text * shares[1]
        else:
            grad.diagonal(ctx.layout.first).sub_(by_image + by_text)
        return grad, None, None, None
