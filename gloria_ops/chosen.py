"""Scores of chosen pairs by any backend: one call for each item of one side, with its partners of the other.

The backend never sees the pairs. A call is a batch of one item with a few, whose scores are those of any other batch.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from gloria_ops.backends.contract import Backend
from gloria_ops.learnable import FIXED, Learnable
from gloria_ops.precision import score_dtype
from gloria_ops.score import LocalScore
from gloria_ops.tokens import Ragged


def forward(
    backend: Backend,
    attended: Ragged,
    attending: Ragged,
    pairs: Tensor,
    score: LocalScore,
    learnable: Learnable = FIXED,
    search_words: int = 0,
) -> Tensor:
    """Return the scores (P,) of pairs (P, 2) int64 of (attended, attending); the rest as in `Backend.forward`.

    The pairs are read on the host: on a GPU this waits for them.

    Raises:
        ValueError: a pair beyond the items.
    """
    # Where no pair is chosen, the scores depend on the tensors all the same.
    none = torch.cat([each.flatten()[:0] for each in (attended.rows, attending.rows, *learnable.given)])
    scores, places = [none.to(score_dtype(attended.rows.dtype))], [pairs.new_empty(0)]
    for at, some, others in _calls(pairs, attended, attending):
        if backend.attended_of_any_length:
            side = _items(attended, some)
        else:
            side, _ = _packed(attended, some, _padded_length(attended, backend))
        scores.append(backend.forward(side, _items(attending, others), score, search_words, learnable).flatten())
        places.append(at)
    return torch.cat(scores)[torch.cat(places).argsort()]


def backward(
    backend: Backend,
    grad_scores: Tensor,
    attended: Ragged,
    attending: Ragged,
    pairs: Tensor,
    score: LocalScore,
    learnable: Learnable = FIXED,
) -> tuple[Tensor, ...]:
    """Return the gradients that `Backend.backward` returns, from that of the scores (P,)."""
    targets = [attended.rows, attending.rows, *learnable.given]
    totals = [torch.zeros_like(each, dtype=score_dtype(each.dtype)) for each in targets]
    for at, some, others in _calls(pairs, attended, attending):
        # With the rows of these items alone, for a backend fills gradients of all rows that it is given.
        side, rows = _packed(attended, some, _padded_length(attended, backend))
        other_side, other_rows = _packed(attending, others, None)
        places: list[Any] = [rows, other_rows, *[...] * len(learnable.given)]
        own = learnable
        if own.word_weights is not None:
            places[2] = other_rows
            own = own._replace(word_weights=own.word_weights[other_rows])
        upstream = grad_scores[at].reshape(len(some), len(others))
        parts = backend.backward(upstream, side, other_side, score, own)
        for total, place, part in zip(totals, places, parts, strict=True):
            if isinstance(place, Tensor):
                total.index_add_(0, place, part.to(total.dtype))
            else:
                total[place] += part
    return tuple(total.to(target.dtype) for total, target in zip(totals, targets, strict=True))


def _calls(pairs: Tensor, attended: Ragged, attending: Ragged) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield places of pairs, and the items (a,) and (b,) of both sides, of which one is 1, that they are the pairs of.

    The side with fewer different items has one item in each call.
    """
    host = pairs.cpu()
    counts = torch.tensor([attended.starts.shape[0], attending.starts.shape[0]])
    for row in ((host < 0) | (host >= counts)).any(1).nonzero()[:1, 0].tolist():
        raise ValueError(
            f"pairs[{row}] is {tuple(host[row].tolist())} of (attended, attending) items; expected numbers below "
            f"{tuple(counts.tolist())}"
        )
    single = int(host[:, 0].unique().numel() > host[:, 1].unique().numel())
    order = host[:, single].argsort(stable=True)
    items, sizes = host[order, single].unique_consecutive(return_counts=True)
    for item, at in zip(items, order.split(sizes.tolist()), strict=True):
        sides = [item[None], host[at, 1 - single]]
        some, others = sides[::-1] if single else sides
        yield at.to(pairs.device), some.to(pairs.device), others.to(pairs.device)


def _items(side: Ragged, items: Tensor) -> Ragged:
    """Some items of a side, whose rows stay where they are."""
    return side._replace(starts=side.starts[items], lengths=side.lengths[items])


def _packed(side: Ragged, items: Tensor, longest: int | None) -> tuple[Ragged, slice | Tensor]:
    """Some items with their rows alone, and where those are among all: a slice of one item's, else an index.

    Args:
        longest: rows that each item is padded to; None = pack them.
    """
    rows, starts, lengths = _items(side, items)
    if len(items) == 1:
        place = slice(int(starts), int(starts + lengths))
        return Ragged(rows[place], torch.zeros_like(starts), lengths), place
    sizes = lengths if longest is None else torch.full_like(lengths, longest)
    ends = sizes.cumsum(0)
    index = torch.arange(int(ends[-1]), device=rows.device) + (starts - ends + sizes).repeat_interleave(sizes)
    return Ragged(rows[index], ends - sizes, lengths), index


def _padded_length(attended: Ragged, backend: Backend) -> int | None:
    """What the attended items are padded to, where the backend asks for that."""
    return None if backend.attended_of_any_length else attended.rows.shape[0] // attended.starts.shape[0]
