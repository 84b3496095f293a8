"""Gathers different numbers of rows from all ranks, and returns their gradients."""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# The second name is deprecated since torch 2.12.
_all_gather_single = dist.all_gather_single if hasattr(dist, "all_gather_single") else dist.all_gather_into_tensor


def all_gather(own: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """Gather every rank's `own`, all of one shape (L, ...), as (R, L, ...) in the order of the ranks."""
    size = dist.get_world_size(group)
    gathered = own.new_empty((size * own.shape[0], *own.shape[1:]))
    _all_gather_single(gathered, own.contiguous(), group=group)
    return gathered.unflatten(0, (size, own.shape[0]))


def all_gather_uneven(own: Tensor, counts: list[int], group: dist.ProcessGroup | None) -> Tensor:
    """Gather every rank's `own` (counts[r], ...), joined in the order of the ranks."""
    gathered = all_gather(_padded(own, max(counts)), group)
    return torch.cat([part[:count] for part, count in zip(gathered, counts, strict=True)])


def all_to_all(parts: Tensor, counts: list[int], group: dist.ProcessGroup | None) -> Tensor:
    """Send counts[r] elements of `parts` to each rank r; return those received, (R, counts[this rank]), by sender."""
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    received = parts.new_empty(size * counts[rank])
    dist.all_to_all_single(received, parts.contiguous(), [counts[rank]] * size, counts, group=group)
    return received.unflatten(0, (size, counts[rank]))


class SummedOverRanks(torch.autograd.Function):
    """Sums every rank's tensor, in the order of the ranks; backward differentiates the sum of all ranks' results."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        """Sum `own`, of one shape on all ranks."""
        ctx.group = group
        return all_gather(own[None], group).sum((0, 1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        """Sum the upstream gradients of all ranks."""
        return all_gather(upstream[None], ctx.group).sum((0, 1)), None


class GatheredRows(torch.autograd.Function):
    """Gathers every rank's rows (L_r, D) as (R * most, D); rank r's rows begin at r * most, with zeros between.

    Backward sends each rank the gradients of its rows, and adds them in the order of the ranks.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, most: int, group: dist.ProcessGroup | None) -> Tensor:
        """Gather the rows; `most` is the largest number of rows of any rank."""
        ctx.count, ctx.group = rows.shape[0], group
        return all_gather(_padded(rows, most), group).flatten(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient of this rank's rows."""
        received = torch.empty_like(grad, memory_format=torch.contiguous_format)
        dist.all_to_all_single(received, grad.contiguous(), group=ctx.group)
        by_rank = received.unflatten(0, (dist.get_world_size(ctx.group), -1))[:, : ctx.count]
        return by_rank.sum(0), None, None  # torch sums 16-bit values in float32


def _padded(own: Tensor, most: int) -> Tensor:
    return F.pad(own, (0, 0) * (own.dim() - 1) + (0, most - own.shape[0]))
