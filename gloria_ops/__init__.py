"""Fused, differentiable word-region scores and contrastive losses of every image with every text of a batch."""

from gloria_ops.cached import CachedLocalGlobalLoss, in_micro_batches
from gloria_ops.functional import (
    attention_maps,
    contrastive_losses,
    cosines,
    local_contrastive_loss,
    local_pair_scores,
    local_scores,
)
from gloria_ops.modules import GlobalContrastiveLoss, LocalContrastiveLoss, LocalSigmoidLoss
from gloria_ops.retrieval import ItemKind, TopK, local_topk, merge_best, scored_chunks, scored_pairs
from gloria_ops.score import LocalScore
from gloria_ops.score_losses import hinge_loss, symmetric_loss
from gloria_ops.sigmoid import local_sigmoid_loss, sigmoid_loss
from gloria_ops.version import __version__

__all__ = [
    "CachedLocalGlobalLoss",
    "GlobalContrastiveLoss",
    "ItemKind",
    "LocalContrastiveLoss",
    "LocalScore",
    "LocalSigmoidLoss",
    "TopK",
    "__version__",
    "attention_maps",
    "contrastive_losses",
    "cosines",
    "hinge_loss",
    "in_micro_batches",
    "local_contrastive_loss",
    "local_pair_scores",
    "local_scores",
    "local_sigmoid_loss",
    "local_topk",
    "merge_best",
    "scored_chunks",
    "scored_pairs",
    "sigmoid_loss",
    "symmetric_loss",
]
