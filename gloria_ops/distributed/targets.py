"""Which pairs of this rank's images with all texts belong together, and which take no part in the loss."""

import torch
from torch import Tensor

from gloria_ops.distributed.agreement import Layout
from gloria_ops.distributed.gather import all_gather_uneven, all_to_all
from gloria_ops.distributed.share import Share
from gloria_ops.targets import pair_weights


def spread_pair_mask(share: Share, layout: Layout) -> Tensor | None:
    """Return (n_r, N) bool, False for pairs that take no part; None without report ids."""
    if share.report_ids is None:
        return None
    all_ids = all_gather_uneven(share.report_ids, layout.counts, layout.group)
    return contrasted_pairs(share.report_ids, all_ids, layout.first)


def spread_weights(share: Share, layout: Layout, dtype: torch.dtype) -> Tensor | None:
    """Return the weights (n_r, N) in the dtype of the scores; None without targets.

    Raises:
        ValueError: on every rank, if a matrix of targets does not have N columns.
    """
    targets = share.targets
    if targets is None:
        return None
    if targets.dim() == 1:
        targets = targets.to(torch.int64)
        return pair_weights(targets, dtype, all_gather_uneven(targets, layout.counts, layout.group))
    if targets.shape[1] != sum(layout.counts):
        raise ValueError(
            f"targets have {targets.shape[1]} columns; expected {sum(layout.counts)}, the texts of all ranks in their "
            "order"
        )
    return pair_weights(targets, dtype)


def column_sums(weights: Tensor, layout: Layout) -> Tensor:
    """Return the sums (N,) of weights (n_r, N) over the images of all ranks, the same bits on every rank."""
    of_own_texts = all_to_all(weights.sum(0), layout.counts, layout.group).sum(0)
    return all_gather_uneven(of_own_texts, layout.counts, layout.group)


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
