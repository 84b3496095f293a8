"""The losses of all ranks as modules, for a model or a training script to hold."""

from gloria_ops import modules
from gloria_ops.distributed.functional import global_contrastive_loss, local_contrastive_loss


class LocalContrastiveLoss(modules.LocalContrastiveLoss):
    """`gloria_ops.LocalContrastiveLoss` over the batches of all ranks.

    Its call takes report_ids, exchange and group of `gloria_ops.distributed.local_contrastive_loss`, and no pair_mask.
    """

    _losses = staticmethod(local_contrastive_loss)


class GlobalContrastiveLoss(modules.GlobalContrastiveLoss):
    """`gloria_ops.GlobalContrastiveLoss` over the batches of all ranks.

    Its call takes report_ids and group of `gloria_ops.distributed.global_contrastive_loss`, and no pair_mask.
    """

    _losses = staticmethod(global_contrastive_loss)
