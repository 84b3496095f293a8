"""Searches of an index: every item scored, a shard at a time, or only those that FAISS finds near, re-ranked."""

from collections.abc import Iterator

import torch
from torch import Tensor

from gloria.index.nearest import nearest
from gloria.index.store import EmbeddingIndex, Items
from gloria.retrieval import BY, By
from gloria_ops import LocalScore, TopK, cosines, merge_best, scored_chunks

Encoded = Items  # queries have the layout of what they look for


@torch.no_grad()
def search(
    index: EmbeddingIndex, queries: Encoded, k: int, *, by: By, score: LocalScore, candidates: int | None = None
) -> TopK:
    """The k best items of an index for each query.

    Exact, without `candidates`: every item is scored. A shard is read from the disk (and copied to the device of the
    queries, where that is another), its scores are merged into the best so far and forgotten. With `candidates`: FAISS
    finds so many items by their whole vectors, and only they are scored; what it does not find is lost.

    Args:
        index: of the other kind than the queries.
        queries: texts for an index of images, images for one of texts; cast to the dtype of the index.
        k: 1 to the number of items.
        by: "global" = cosine of the whole vectors, "local" = local score, "both" = their mean.
        score: the local score, that of the model.
        candidates: k at least; None = all.

    Returns:
        Scores and numbers of items, best first; equal scores in the order of the index. Where FAISS found fewer than k,
        as inverted files may, the rest are -inf and -1.

    Raises:
        ValueError: an argument out of range; queries of another width, or not finite in the dtype of the index;
        `candidates` without a FAISS index.
    """
    _check(index, queries, k, by, candidates)
    dtype = index.shards[0].parts.dtype
    queries = queries._replace(whole=queries.whole.float(), parts=queries.parts.to(dtype))
    if not (queries.whole.isfinite().all() and queries.parts.isfinite().all()):
        raise ValueError(
            f"the queries have vectors that are no finite numbers in {dtype}, the dtype of the index, and would find "
            "anything; build one in float32 or bfloat16, which have a wider range, or mend the model"
        )
    if candidates is not None:
        found = nearest(index, queries.whole, min(candidates, len(index)))
        return rerank(index, queries, found, k, by=by, score=score)
    best = _none(queries.whole)
    for first, shard in zip(index.firsts, index.shards, strict=True):
        best = merge_best(best, _scores(queries, shard, index, by, score), first, k)
    return best


@torch.no_grad()
def rerank(index: EmbeddingIndex, queries: Encoded, candidates: Tensor, k: int, *, by: By, score: LocalScore) -> TopK:
    """The k best of each query's own candidates.

    Args:
        index, queries, k, by, score: as in `search`, the queries in the dtype of the index.
        candidates: (Q, n) int64, numbers of items in any order; -1 = none.

    Returns:
        As `search`; -inf and -1 where there are fewer than k candidates.
    """
    best = []
    for query, numbers in zip(_each(queries), candidates.cpu(), strict=True):
        numbers = numbers[numbers >= 0].sort().values
        found = _none(query.whole)
        if len(numbers):
            scores = _scores(query, index.gather(numbers), index, by, score)
            found = merge_best(found, scores, 0, k)
            found = TopK(found.scores, numbers.to(found.indices.device)[found.indices])
        lacking = (0, k - found.scores.shape[1])
        pad = torch.nn.functional.pad
        best.append(TopK(pad(found.scores, lacking, value=float("-inf")), pad(found.indices, lacking, value=-1)))
    return TopK(torch.cat([each.scores for each in best]), torch.cat([each.indices for each in best]))


def _scores(queries: Encoded, items: Items, index: EmbeddingIndex, by: By, score: LocalScore) -> Tensor:
    """(Q, n) float32: every query with every item of a chunk."""
    device = queries.whole.device
    if by == "global":
        return cosines(queries.whole, items.whole.to(device))
    items = Items(*(each.to(device) for each in items))
    # Not by `local_scores`: a search has a cheaper way for few queries than the scores of a batch.
    scored = scored_chunks(
        queries.parts,
        items.parts,
        of=index.manifest.of,
        query_offsets=queries.offsets,
        corpus_offsets=items.offsets,
        score=score,
    )
    local = torch.cat([scores for _, scores in scored], dim=1)
    return local if by == "local" else 0.5 * (cosines(queries.whole, items.whole) + local)


def _each(queries: Encoded) -> Iterator[Encoded]:
    for whole, parts in zip(queries.whole, queries.parts.split(queries.offsets.diff().tolist()), strict=True):
        yield Encoded(whole[None], parts, queries.offsets.new_tensor([0, len(parts)]))


def _none(whole: Tensor) -> TopK:
    scores = whole.new_empty((whole.shape[0], 0), dtype=torch.float32)
    return TopK(scores, torch.empty_like(scores, dtype=torch.int64))


def _check(index: EmbeddingIndex, queries: Encoded, k: int, by: By, candidates: int | None) -> None:
    if by not in BY:
        raise ValueError(f"by is {by!r}; expected one of {', '.join(map(repr, BY))}")
    if not 1 <= k <= len(index):
        raise ValueError(f"k is {k}; expected 1 to {len(index)}, the number of items of the index")
    if candidates is not None and candidates < k:
        raise ValueError(f"candidates is {candidates} and k {k}; expected k candidates at least, such as {100 * k}")
    width = queries.whole.shape[1]
    if width != index.manifest.width:
        raise ValueError(
            f"queries are {width} wide and the index {index.manifest.width} (D); take queries of the model that made it"
        )
