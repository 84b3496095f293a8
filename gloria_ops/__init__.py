"""Fused word-region contrastive scores and losses of every image with every text of a batch, differentiable."""

from gloria_ops.cached import CachedLocalGlobalLoss, in_micro_batches
from gloria_ops.functional import attention_maps, local_contrastive_loss, local_scores
from gloria_ops.losses import GlobalContrastiveLoss, LocalContrastiveLoss
from gloria_ops.retrieval import TopK, local_topk
from gloria_ops.score import LocalScore
from gloria_ops.score_losses import hinge_loss, symmetric_loss

__version__ = "0.1.0"

__all__ = [
    "CachedLocalGlobalLoss",
    "GlobalContrastiveLoss",
    "LocalContrastiveLoss",
    "LocalScore",
    "TopK",
    "__version__",
    "attention_maps",
    "hinge_loss",
    "in_micro_batches",
    "local_contrastive_loss",
    "local_scores",
    "local_topk",
    "symmetric_loss",
]
