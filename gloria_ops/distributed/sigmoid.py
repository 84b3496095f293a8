"""The sigmoid loss of all pairs from the rows of scores that each rank has: one number of each rank travels."""

from torch import Tensor

from gloria_ops.distributed.agreement import Layout
from gloria_ops.distributed.gather import SummedOverRanks
from gloria_ops.distributed.share import Share
from gloria_ops.distributed.targets import spread_pair_mask, spread_weights
from gloria_ops.functional import Reduction
from gloria_ops.sigmoid import image_losses


def spread_sigmoid_loss(scores: Tensor, reduction: Reduction, share: Share, layout: Layout) -> Tensor:
    """Compute `gloria_ops.sigmoid_loss` of all ranks' scores.

    Args:
        scores: (n_r, N), this rank's images with all texts.
        reduction: as in that function.
        share: has logit_scale, logit_bias, report_ids and targets.
        layout: layout of the batch.

    Returns:
        The loss of the whole batch, the same bits on every rank. See `local_contrastive_loss` for what backward gives.
    """
    weights = spread_weights(share, layout, scores.dtype)
    pair_mask = spread_pair_mask(share, layout)
    losses = image_losses(scores, share.logit_scale, share.logit_bias, weights, pair_mask, layout.first)
    total = SummedOverRanks.apply(losses.sum(), layout.group)
    return total / sum(layout.counts) if reduction == "mean" else total
