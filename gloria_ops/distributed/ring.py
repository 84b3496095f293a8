"""Scores this rank's images with all ranks' words, which pass by in blocks; in backward they pass by again."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from gloria_ops.distributed.agreement import Layout
from gloria_ops.learnable import Learnable
from gloria_ops.pairs import pair_gradients, pair_scores
from gloria_ops.precision import score_dtype
from gloria_ops.score import LocalScore
from gloria_ops.tokens import Ragged


class RingScores(torch.autograd.Function):
    """Scores this rank's images with all texts, (n_r, N), as `GatheredRows` and `pair_scores` would."""

    @staticmethod
    def forward(
        ctx: Any,
        regions: Tensor,
        words: Tensor,
        word_weights: None,
        attention_scale: Tensor | None,
        word_scale: Tensor | None,
        images: Ragged,
        texts: list[Ragged],
        score: LocalScore,
        backend: str,
        layout: Layout,
    ) -> Tensor:
        """Score block after block.

        Args:
            regions: rows of this rank's images, for autograd.
            words: rows of this rank's texts, for autograd.
            word_weights, attention_scale, word_scale: `Learnable`, for autograd; weights do not travel.
            images: this rank's images; only starts and lengths are read.
            texts: every rank's texts in its packed words; only starts and lengths are read.
            score, backend, layout: those of the batch.
        """
        learnable = Learnable(word_weights, attention_scale, word_scale)
        ctx.save_for_backward(regions, words, *learnable)
        # Without their rows, which would live as long as the graph, even without backward.
        ctx.described = images[1:], [own[1:] for own in texts], score, backend, layout
        own = images._replace(rows=regions)
        scores = regions.new_empty((layout.counts[layout.rank], sum(layout.counts)), dtype=score_dtype(regions.dtype))
        for owner, rows in _blocks(words, layout):
            block = scores[:, _columns(layout, owner)]
            if block.numel():
                block.copy_(pair_scores(own, texts[owner]._replace(rows=rows), score, backend, learnable))
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_scores: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of regions and learnable tensors, summed here, and of words, summed around the ring."""
        regions, words, *learned = ctx.saved_tensors
        learnable = Learnable(*learned)
        grad_learnable = [torch.zeros_like(each) for each in learnable.given]
        images, texts, score, backend, layout = ctx.described
        own = Ragged(regions, *images)
        grad_regions = torch.zeros_like(regions, dtype=score_dtype(regions.dtype))
        sums = _buffers(words, score_dtype(words.dtype), layout)
        for step, (owner, rows) in enumerate(_blocks(words, layout)):
            arriving, leaving = sums[step % 2][: layout.rows[owner]], sums[1 - step % 2]
            # A block's sum arrives while this rank computes its part of it, and leaves during the next step.
            if step == 0:
                arriving.zero_()
                pending = []
            else:
                pending = _send_and_receive(leaving[: layout.rows[(owner + 1) % layout.size]], arriving, layout)
            grad_block = grad_scores[:, _columns(layout, owner)]
            parts = None
            if grad_block.numel():
                parts = pair_gradients(grad_block, own, Ragged(rows, *texts[owner]), score, backend, learnable)
            _wait(pending)
            if parts is not None:
                grad_regions += parts[0]
                arriving += parts[1]
                for total, part in zip(grad_learnable, parts[2:], strict=True):
                    total += part
        if layout.size > 1:
            home = sums[layout.size % 2][: layout.rows[layout.rank]]
            _wait(_send_and_receive(arriving, home, layout))
            arriving = home
        found = iter(grad_learnable)
        of_learnable = (None if each is None else next(found) for each in learnable)
        return grad_regions.to(regions.dtype), arriving.to(words.dtype), *of_learnable, None, None, None, None, None


def _blocks(words: Tensor, layout: Layout) -> Iterator[tuple[int, Tensor]]:
    """Yield (owner, its words), this rank's first; each block arrives while the one before it is in use."""
    free = _buffers(words, words.dtype, layout)
    held = words.contiguous()
    for step in range(layout.size):
        owner = (layout.rank - step) % layout.size
        pending, arriving = [], held
        if step + 1 < layout.size:
            arriving = free[step % 2][: layout.rows[(owner - 1) % layout.size]]
            pending = _send_and_receive(held, arriving, layout)
        yield owner, held
        _wait(pending)
        held = arriving


def _buffers(words: Tensor, dtype: torch.dtype, layout: Layout) -> tuple[Tensor, Tensor]:
    """Allocate two buffers for the largest block."""
    shape = (max(layout.rows), words.shape[1])
    return words.new_empty(shape, dtype=dtype), words.new_empty(shape, dtype=dtype)


def _send_and_receive(leaving: Tensor, arriving: Tensor, layout: Layout) -> list[dist.Work]:
    """Start sending to the next rank and receiving from the previous one; empty blocks are not sent."""
    next_rank, previous_rank = (layout.rank + 1) % layout.size, (layout.rank - 1) % layout.size
    transfers = []
    if leaving.numel():
        transfers.append(dist.P2POp(dist.isend, leaving, group=layout.group, group_peer=next_rank))
    if arriving.numel():
        transfers.append(dist.P2POp(dist.irecv, arriving, group=layout.group, group_peer=previous_rank))
    return dist.batch_isend_irecv(transfers) if transfers else []


def _wait(pending: list[dist.Work]) -> None:
    for work in pending:
        work.wait()


def _columns(layout: Layout, owner: int) -> slice:
    first = sum(layout.counts[:owner])
    return slice(first, first + layout.counts[owner])
