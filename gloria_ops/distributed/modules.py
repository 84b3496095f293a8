"""Modules of the losses over all ranks."""

from gloria_ops import modules
from gloria_ops.distributed.functional import global_contrastive_loss, local_contrastive_loss, local_sigmoid_loss


class LocalContrastiveLoss(modules.LocalContrastiveLoss):
    """Computes `gloria_ops.LocalContrastiveLoss` over the batches of all ranks.

    Its call takes report_ids, targets, exchange and group of `gloria_ops.distributed.local_contrastive_loss`, and no
    pair_mask.
    """

    _losses = staticmethod(local_contrastive_loss)


class LocalSigmoidLoss(modules.LocalSigmoidLoss):
    """`gloria_ops.LocalSigmoidLoss` over the batches of all ranks.

    Its call takes report_ids, targets, exchange and group of `gloria_ops.distributed.local_sigmoid_loss`, and no
    pair_mask.
    """

    _losses = staticmethod(local_sigmoid_loss)


class GlobalContrastiveLoss(modules.GlobalContrastiveLoss):
    """Computes `gloria_ops.GlobalContrastiveLoss` over the batches of all ranks.

    Its call takes report_ids, targets and group of `gloria_ops.distributed.global_contrastive_loss`, and no pair_mask.
    """

    _losses = staticmethod(global_contrastive_loss)
