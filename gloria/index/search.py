"""Searches an index: scores every item, a shard at a time, or re-ranks the candidates that FAISS finds."""

import torch
from torch import Tensor

from gloria.embeddings import Embeddings
from gloria.index.nearest import nearest
from gloria.index.store import EmbeddingIndex
from gloria.retrieval import BY, By
from gloria_ops import LocalScore, TopK, cosines, merge_best, scored_chunks, scored_pairs


@torch.no_grad()
def search(
    index: EmbeddingIndex, queries: Embeddings, k: int, *, by: By, score: LocalScore, candidates: int | None = None
) -> TopK:
    """Return the k best items of an index for each query.

    Without `candidates` the search is exact: every item is scored. Each shard is read from the disk (and copied to the
    queries' device if needed), and its scores are merged into the best so far. With `candidates`, FAISS finds this many
    items by their item embeddings, and only these are scored; the search misses the others.

    Args:
        index: index of images or texts.
        queries: texts for an index of images, images for an index of texts; cast to the dtype of the index.
        k: 1 to the number of items.
        by: "global" = cosine of the item embeddings, "local" = local score, "both" = their mean.
        score: the model's local score.
        candidates: at least k; None = all.

    Returns:
        Scores and numbers of items, best first; equal scores in the order of the index. If FAISS finds fewer than k,
        as inverted files may, the rest are -inf and -1.

    Raises:
        ValueError: an argument out of range; queries of another width, or not finite in the dtype of the index;
            `candidates` without a FAISS index.
    """
    _check(index, queries, k, by, candidates)
    dtype = index.shards[0].part_embeds.dtype
    queries = queries._replace(item_embeds=queries.item_embeds.float(), part_embeds=queries.part_embeds.to(dtype))
    if not (queries.item_embeds.isfinite().all() and queries.part_embeds.isfinite().all()):
        raise ValueError(
            f"the queries have vectors that are NaN or infinite in {dtype}, the dtype of the index, and would find "
            "anything; build one in float32 or bfloat16, which have a wider range, or fix the model"
        )
    if candidates is not None:
        found = nearest(index, queries.item_embeds, min(candidates, len(index)))
        return rerank(index, queries, found, k, by=by, score=score)
    best = _no_hits(queries.item_embeds)
    for first, shard in zip(index.firsts, index.shards, strict=True):
        best = merge_best(best, _scores(queries, shard, index, by, score), first, k)
    return best


@torch.no_grad()
def rerank(
    index: EmbeddingIndex, queries: Embeddings, candidates: Tensor, k: int, *, by: By, score: LocalScore
) -> TopK:
    """Return the k best of each query's own candidates.

    Args:
        index, queries, k, by, score: as in `search`, with queries in the dtype of the index.
        candidates: (Q, n) int64, numbers of items in any order; -1 = none.

    Returns:
        As `search`; -inf and -1 fill up fewer than k candidates.
    """
    best = []
    for query, numbers in zip(queries.singly(), candidates.cpu(), strict=True):
        numbers = numbers[numbers >= 0].sort().values
        found = _no_hits(query.item_embeds)
        if len(numbers):
            found_in = [_candidate_scores(query, *chosen, index, by, score) for chosen in index.by_shard(numbers)]
            scores = torch.cat(found_in, dim=1)
            found = merge_best(found, scores, 0, k)
            found = TopK(found.scores, numbers.to(found.indices.device)[found.indices])
        lacking = (0, k - found.scores.shape[1])
        pad = torch.nn.functional.pad
        best.append(TopK(pad(found.scores, lacking, value=float("-inf")), pad(found.indices, lacking, value=-1)))
    return TopK(torch.cat([each.scores for each in best]), torch.cat([each.indices for each in best]))


def _candidate_scores(
    query: Embeddings, shard: Embeddings, numbers: Tensor, index: EmbeddingIndex, by: By, score: LocalScore
) -> Tensor:
    """Score one query with some items of a shard: (1, n) float32. On the CPU their parts are read where they lie."""
    if query.item_embeds.device.type != "cpu":
        return _scores(query, shard.select(numbers), index, by, score)
    of_global = cosines(query.item_embeds, shard.item_embeds[numbers])
    if by == "global":
        return of_global
    local = scored_pairs(
        query.part_embeds,
        shard.part_embeds,
        torch.stack([torch.zeros_like(numbers), numbers], dim=1),
        of=index.manifest.of,
        query_offsets=query.offsets,
        corpus_offsets=shard.offsets,
        score=score,
    )[None]
    return local if by == "local" else 0.5 * (of_global + local)


def _scores(queries: Embeddings, items: Embeddings, index: EmbeddingIndex, by: By, score: LocalScore) -> Tensor:
    """Score every query with every item of a chunk: (Q, n) float32."""
    device = queries.item_embeds.device
    if by == "global":
        return cosines(queries.item_embeds, items.item_embeds.to(device))
    items = Embeddings(*(each.to(device) for each in items))
    # For few queries, a search is cheaper than `local_scores` of a batch.
    scored = scored_chunks(
        queries.part_embeds,
        items.part_embeds,
        of=index.manifest.of,
        query_offsets=queries.offsets,
        corpus_offsets=items.offsets,
        score=score,
    )
    local = torch.cat([scores for _, scores in scored], dim=1)
    return local if by == "local" else 0.5 * (cosines(queries.item_embeds, items.item_embeds) + local)


def _no_hits(query_embeds: Tensor) -> TopK:
    scores = query_embeds.new_empty((query_embeds.shape[0], 0), dtype=torch.float32)
    return TopK(scores, torch.empty_like(scores, dtype=torch.int64))


def _check(index: EmbeddingIndex, queries: Embeddings, k: int, by: By, candidates: int | None) -> None:
    if by not in BY:
        raise ValueError(f"by is {by!r}; expected one of {', '.join(map(repr, BY))}")
    if not 1 <= k <= len(index):
        raise ValueError(f"k is {k}; expected 1 to {len(index)}, the number of items of the index")
    if candidates is not None and candidates < k:
        raise ValueError(f"candidates is {candidates} and k {k}; expected at least k candidates, such as {100 * k}")
    width = queries.item_embeds.shape[1]
    if width != index.manifest.width:
        raise ValueError(
            f"queries are {width} wide and the index {index.manifest.width} (D); take queries of the model that made it"
        )
