"""Exchanges sizes and settings before anything large travels, and checks that the ranks agree."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import torch
import torch.distributed as dist

from gloria_ops.distributed.gather import all_gather
from gloria_ops.distributed.share import Share


@dataclass(frozen=True)
class Layout:
    """Describes which part of the batch each rank holds: counts[r] images and texts, and rows[r] rows of texts."""

    group: dist.ProcessGroup | None
    rank: int
    counts: list[int]
    rows: list[int]

    @property
    def size(self) -> int:
        """The number of ranks."""
        return len(self.counts)

    @property
    def first(self) -> int:
        """The index of this rank's first image and text among all."""
        return sum(self.counts[: self.rank])


def rank_count(group: dist.ProcessGroup | None) -> int:
    """Return the number of ranks; 1 if torch.distributed is not initialized.

    Raises:
        ValueError: the group does not contain this process.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return 1
    if dist.get_rank(group) < 0:
        raise ValueError(
            f"group does not contain this process, rank {dist.get_rank()}; expected to be called by its ranks only"
        )
    return dist.get_world_size(group)


def agree(prepare: Callable[[], Share], device: torch.device, group: dist.ProcessGroup | None) -> tuple[Share, Layout]:
    """Return the share that `prepare` makes, and the layout of the batch.

    Sizes are read on the host: only here does a step wait for the device.

    Args:
        prepare: checks the arguments of this rank and makes its share.
        device: device on which the group communicates.
        group: the process group.

    Raises:
        Any error of `prepare` on this rank.
        RuntimeError: `prepare` raised on another rank; the message has that rank and its message.
        ValueError: the settings of two ranks differ, or no rank has a row.
    """
    share: Share | None = None
    failure: Exception | None = None
    try:
        share = prepare()
    except Exception as error:
        failure = error
    header = [0, 0, 0] if share is None else [_fingerprint(share), share.count, share.texts.rows.shape[0]]
    headers = all_gather(torch.tensor([share is None, *header], device=device), group).tolist()
    if share is None or any(failed for failed, *_ in headers) or len({sums for _, sums, *_ in headers}) > 1:
        raise _disagreement(share, failure, group)
    counts, rows = ([each[column] for each in headers] for column in (2, 3))
    if not any(counts):
        raise ValueError(f"none of the {len(counts)} ranks has an image; expected at least one on one rank")
    return share, Layout(group, dist.get_rank(group), counts, rows)


def _fingerprint(share: Share) -> int:
    return crc32(repr(share.settings).encode())


def _disagreement(share: Share | None, failure: Exception | None, group: dist.ProcessGroup | None) -> Exception:
    """Return the error to raise on this rank; all ranks call this, or none."""
    settings = {} if share is None else {name: repr(value) for name, value in share.settings.items()}
    gathered: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(gathered, (str(failure), settings), group=group)
    if failure is not None:
        return failure
    by_rank = list(zip(dist.get_process_group_ranks(group), gathered, strict=True))
    for rank, (message, theirs) in by_rank:
        if not theirs:
            return RuntimeError(f"rank {rank} refused its arguments, so no rank can go on: {message}")
    first, (_, expected) = by_rank[0]
    rank, name, value = next(
        (rank, name, value)
        for rank, (_, theirs) in by_rank
        for name, value in theirs.items()
        if value != expected.get(name)
    )
    return ValueError(
        f"{name} is {expected.get(name)} on rank {first} and {value} on rank {rank}; expected the same on every rank"
    )
