"""Searches a corpus chunk by chunk: local_topk keeps the best scores, scored_chunks gives all."""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from gloria_ops import backends
from gloria_ops.functional import RELEASED, check_score, checked_pairs
from gloria_ops.pairs import in_roles, search_scores
from gloria_ops.score import LocalScore
from gloria_ops.tokens import Lengths, Ragged, check_layout, queries_and_corpus

ItemKind = Literal["images", "texts"]

# Limits of one kernel call. This many rows keep it busy for milliseconds even with one query, beside which the cost of
# the call and of packing the queries is negligible. The number of scores limits the cost of sorting, for short items.
CHUNK_ROWS = 2**16
CHUNK_SCORES = 2**18


class TopK(NamedTuple):
    """Holds the best items of each query, best first.

    scores: (Q, k) float32 (float64 for float64).
    indices: (Q, k) int64, items of the corpus.
    """

    scores: Tensor
    indices: Tensor


def local_topk(
    queries: Tensor,
    corpus: Tensor | np.ndarray,
    k: int,
    *,
    of: ItemKind,
    query_lengths: Lengths | None = None,
    query_offsets: Lengths | None = None,
    corpus_lengths: Lengths | None = None,
    corpus_offsets: Lengths | None = None,
    score: LocalScore = RELEASED,
    backend: str | None = None,
) -> TopK:
    """Return the k items of a corpus with the highest local scores for each query, without gradients.

    Every item is scored. The corpus may be larger than memory: it is never copied, and its rows are read once, chunk by
    chunk. Memory holds the scores of a chunk, k scores for each query, and 16 bytes for each item's start and length.

    Args:
        queries: (Q, L, D) padded, or (sum of L, D) packed: words of texts for a corpus of images, regions of images for
            a corpus of texts. float16, bfloat16, float32 or float64; autocast does not change it.
        corpus: (sum of L, D) packed, or (N, L, D) padded, contiguous; dtype and device of the queries. A tensor, such
            as `torch.from_file` maps, or a numpy array, such as a read-only `np.memmap`.
        k: 1 to N.
        of: kind of the corpus, "images" or "texts". The queries are the other kind.
        query_lengths, corpus_lengths: (Q,) and (N,) integers, real rows of each padded item. Default: L for all.
        query_offsets, corpus_offsets: (Q + 1,) and (N + 1,) integers, for packed rows: item n owns
            rows[offsets[n] : offsets[n + 1]].
        score: score to compute, in either direction. Default: the authors' released code.
        backend: as in `local_scores`.

    Returns:
        Scores, descending, and indices. Among equal scores the lower index comes first. A NaN score, from a NaN in item
        or query, ranks below every number: it is among the best only if fewer than k scores are numbers. With backend
        "cpu", no bit depends on where the corpus is cut. But for few queries, the cosines may differ from those of
        `local_scores` by rounding, because a cheaper way computes them.

    Raises:
        TypeError, ValueError: an argument that does not fit, named with its value and the fix.
        RuntimeError, NotImplementedError: as `local_scores`.
    """
    asking, searched = queries_and_corpus(
        queries,
        corpus,
        query_lengths=query_lengths,
        query_offsets=query_offsets,
        corpus_lengths=corpus_lengths,
        corpus_offsets=corpus_offsets,
    )
    _check_k(k, searched.starts.shape[0])
    best = None
    for first, scores in _scored_chunks(asking, searched, of, score, backend):
        best = merge_best(best, scores, first, k)
    assert best is not None  # a corpus has an item
    return best


def scored_chunks(
    queries: Tensor,
    corpus: Tensor | np.ndarray,
    *,
    of: ItemKind,
    score: LocalScore = RELEASED,
    backend: str | None = None,
    **described: Any,
) -> Iterator[tuple[int, Tensor]]:
    """Score every query with every item of a corpus, without gradients, some items at a time.

    It serves searches that need more than the k best.

    Args:
        queries, corpus, of, score, backend: as in `local_topk`.
        described: its query_lengths, query_offsets, corpus_lengths and corpus_offsets.

    Returns:
        An iterator over chunks: the index of the first item, and scores (Q, n), float32 (float64 for float64).

    Raises:
        TypeError, ValueError, RuntimeError, NotImplementedError: as `local_topk`, before the first chunk.
    """
    asking, searched = queries_and_corpus(queries, corpus, **described)
    return _scored_chunks(asking, searched, of, score, backend)


def scored_pairs(
    queries: Tensor,
    corpus: Tensor | np.ndarray,
    pairs: Tensor,
    *,
    of: ItemKind,
    score: LocalScore = RELEASED,
    backend: str | None = None,
    **described: Any,
) -> Tensor:
    """Score chosen pairs of queries and items of a corpus, without gradients: the second stage of a search.

    On the CPU only the rows of chosen items are read, where they lie; none are copied.

    Args:
        queries, corpus, of, score, backend: as in `local_topk`.
        pairs: (P, 2) integers, rows (query, item), in any order; P may be 0.
        described: its query_lengths, query_offsets, corpus_lengths and corpus_offsets.

    Returns:
        (P,), float32 (float64 for float64): what `scored_chunks` gives for these pairs.

    Raises:
        TypeError, ValueError, RuntimeError, NotImplementedError: as `local_topk`; pairs of another shape or beyond the
        items.
    """
    asking, searched = queries_and_corpus(queries, corpus, **described)
    chosen, search_words = _prepared(asking, searched, of, score, backend)
    names = ("a query", "an item")
    pairs = checked_pairs(pairs, asking.starts.shape[0], searched.starts.shape[0], names=names)
    pairs = pairs.to(asking.rows.device, torch.int64)
    if of == "images":
        return search_scores(searched, asking, score, chosen, search_words, pairs.flip(1))
    return search_scores(asking, searched, score, chosen, search_words, pairs)


def _prepared(queries: Ragged, corpus: Ragged, of: ItemKind, score: LocalScore, backend: str | None) -> tuple[str, int]:
    """The name of the backend, and how many rows attend to the corpus in all; 0 where it attends itself."""
    check_score(score)
    if of not in get_args(ItemKind):
        raise ValueError(f"of is {of!r}; expected 'images' or 'texts', what the corpus holds")
    chosen = backends.choose(backend, score, queries.rows.dtype, queries.rows.device)
    corpus_is_attended = in_roles("images", "texts", score)[0] == of
    _check_attended(corpus if corpus_is_attended else queries, chosen)
    # The words of all queries, so that no score depends on where the corpus is cut.
    return chosen, int(queries.lengths.sum()) if corpus_is_attended else 0


def _scored_chunks(
    queries: Ragged, corpus: Ragged, of: ItemKind, score: LocalScore, backend: str | None
) -> Iterator[tuple[int, Tensor]]:
    chosen, search_words = _prepared(queries, corpus, of, score, backend)

    def scores_of(chunk: Ragged) -> Tensor:
        if of == "images":
            return search_scores(chunk, queries, score, chosen, search_words).T
        return search_scores(queries, chunk, score, chosen, search_words)

    return ((first, scores_of(chunk)) for first, chunk in _chunks(corpus, CHUNK_SCORES // queries.starts.shape[0]))


def _chunks(items: Ragged, most_items: int) -> Iterator[tuple[int, Ragged]]:
    """Yield chunks of at least one consecutive item, as views of the rows, each with the index of its first item."""
    rows, starts, lengths = items
    count, first = starts.shape[0], 0
    while first < count:
        begin = int(starts[first])
        limit = begin + CHUNK_ROWS
        # The last item that begins within the limit may end beyond it, and is left to the next chunk.
        last = int(torch.searchsorted(starts, limit, right=True)) - 1 if limit < rows.shape[0] else count
        last = max(first + 1, min(last, first + most_items))
        end = int(starts[last]) if last < count else rows.shape[0]
        yield first, Ragged(rows[begin:end], starts[first:last] - begin, lengths[first:last])
        first = last


def merge_best(best: TopK | None, scores: Tensor, first: int, k: int) -> TopK:
    """Return the k best of `best` and of a chunk's scores, in the order of `local_topk`.

    It serves searches that compute their own scores, chunk after chunk.

    Args:
        best: best of the earlier chunks; None = this is the first chunk.
        scores: (Q, n), floating, scores of the n items from `first` on.
        first: index of the chunk's first item.
        k: at least 1; fewer are returned until k items have been seen.

    Raises:
        TypeError, ValueError: scores that are not as above.
    """
    check_layout("scores", scores, "(Q, n)")
    indices = torch.arange(first, first + scores.shape[1], device=scores.device).expand(scores.shape)
    if best is not None:
        scores, indices = torch.cat([best.scores, scores], dim=1), torch.cat([best.indices, indices], dim=1)
    # topk does not define the order of equal scores. A stable sort keeps the corpus's order, and sorts NaN last.
    order = torch.sort(-scores, dim=1, stable=True).indices[:, :k]
    return TopK(scores.gather(1, order), indices.gather(1, order))


def _check_k(k: int, count: int) -> None:
    if not isinstance(k, int) or isinstance(k, bool):
        raise TypeError(f"k is {k!r}; expected an integer")
    if not 1 <= k <= count:
        raise ValueError(f"k is {k}; expected 1 to {count}, the number of items of the corpus: min(k, {count})")


def _check_attended(attended: Ragged, backend: str) -> None:
    """Refuse unequal attended items for a backend that needs them padded to one length: it would return NaN."""
    if backends.BACKENDS[backend].attended_of_any_length:
        return
    longest, padded = int(attended.lengths.max()), attended.rows.shape[0] // attended.starts.shape[0]
    if longest > padded:
        raise NotImplementedError(
            f"backend={backend!r} lacks packed items of unequal lengths where attention runs over them: the longest "
            f"has {longest} rows; give them padded, with their lengths, or take backend='reference'"
        )
