"""Ranks images for a report and reports for an image: by the global cosine, by the local score, or by both."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from gloria.data import Row
from gloria.embeddings import Embeddings
from gloria.encoding import batches, encode_images, encode_texts, inference
from gloria.modeling import GloriaModel
from gloria.processing import GloriaProcessor
from gloria_ops import LocalScore, cosines, local_scores

By = Literal["global", "local", "both"]
BY: tuple[By, ...] = ("global", "local", "both")


@dataclass(frozen=True)
class Similarities:
    """Holds the scores of every image with every text, (N_v, N_t) float32 on the CPU.

    Attributes:
        of_global: cosines of the item embeddings.
        of_local: local scores Z by `model.learned_score`.
    """

    of_global: Tensor
    of_local: Tensor

    def by(self, by: By) -> Tensor:
        """Return the similarities to rank by; "both" is their plain mean, ½ (global + local).

        The loss multiplies both by the same scale (released: 10), so training shapes their plain sum. Nothing is
        standardized, so an answer does not depend on what else is ranked.

        Raises:
            ValueError: another `by`.
        """
        if by not in BY:
            raise ValueError(f"by is {by!r}; expected one of {', '.join(map(repr, BY))}")
        return {"global": self.of_global, "local": self.of_local, "both": 0.5 * (self.of_global + self.of_local)}[by]


def trained_by(model: GloriaModel) -> By:
    """Return what a model is to rank by: all that it was trained with."""
    config: Any = model.config
    if not config.local_weight:
        return "global"
    return "both" if config.global_weight else "local"


def similarities(
    model: GloriaModel,
    processor: GloriaProcessor,
    images: Sequence[Any],
    reports: Sequence[str],
    batch_size: int = 32,
    progress: bool = False,
) -> Similarities:
    """Score every image with every report.

    Texts are encoded first and kept as packed words. Images are encoded and scored a batch at a time, so the regions of
    one batch at most are in memory.

    Args:
        model: put into evaluation mode while this runs.
        processor: processor of the same run.
        images: N_v images as `GloriaProcessor` takes them, such as paths.
        reports: N_t reports.
        batch_size: images, and texts, encoded at once.
        progress: show progress bars, on a terminal.

    Raises:
        ValueError: no image or no report; an unreadable image; `batch_size` below 1.
    """
    if not len(images) or not len(reports) or batch_size < 1:
        raise ValueError(
            f"there are {len(images)} images, {len(reports)} reports and a batch_size of {batch_size}; expected at "
            "least one of each"
        )
    with inference(model):
        texts = encode_texts(model, processor, reports, batch_size, progress)
        return similarities_to(texts, model, processor, images, model.learned_score, batch_size, progress)


def similarities_to(
    texts: Embeddings,
    model: GloriaModel,
    processor: GloriaProcessor,
    images: Sequence[Any],
    score: LocalScore,
    batch_size: int,
    progress: bool = False,
) -> Similarities:
    """Score every image with already encoded texts, by any local score; call this inside `inference`."""
    of_global, of_local = [], []
    for batch in batches(images, batch_size, "images", progress):
        encoded = encode_images(model, processor, batch)
        of_global.append(cosines(encoded.item_embeds, texts.item_embeds).cpu())
        region_embeds = encoded.part_embeds.unflatten(0, (len(batch), -1))
        of_local.append(local_scores(region_embeds, texts.part_embeds, word_offsets=texts.offsets, score=score).cpu())
    return Similarities(torch.cat(of_global).float(), torch.cat(of_local).float())


def precision_at(scores: Tensor, queries: Sequence[str], candidates: Sequence[str], k: int) -> float:
    """Return Precision@K: the share of the K best candidates that have the query's label, averaged over the queries.

    Args:
        scores: (queries, candidates), higher is better.
        queries: label of each query; one without a relevant candidate counts as 0.
        candidates: label of each candidate.
        k: 1 to the number of candidates.

    Raises:
        ValueError: `k` out of range; a number of labels that does not match the scores.
    """
    return precision_of_ranked(_ranked_relevance(scores, queries, candidates, k), k)


def recall_at(scores: Tensor, queries: Sequence[str], candidates: Sequence[str], k: int) -> float:
    """Return Recall@K as in image-text retrieval: the share of queries with a relevant candidate among the K best.

    Args, Raises:
        As `precision_at`; a label stands for one report here.
    """
    return hit_rate_of_ranked(_ranked_relevance(scores, queries, candidates, k), k)


def precision_of_ranked(relevant: Tensor, k: int) -> float:
    """Return Precision@K of rankings.

    Args:
        relevant: (queries, at least K) bool, whether the item at each rank is relevant, best first.
        k: 1 or more.
    """
    return relevant[:, :k].double().mean().item()


def hit_rate_of_ranked(relevant: Tensor, k: int) -> float:
    """Return the share of queries with a relevant item among the K best; arguments as in `precision_of_ranked`."""
    return relevant[:, :k].any(1).double().mean().item()


def chance(queries: Sequence[str], candidates: Sequence[str]) -> float:
    """Return the expected Precision@K of candidates in random order, the same for every K."""
    frequency = Counter(candidates)
    return sum(frequency[label] for label in queries) / (len(queries) * len(candidates))


def labels_of(rows: Sequence[Row]) -> list[str]:
    """Return what makes rows relevant to each other: their labels, or their reports if any row lacks a label."""
    if all(row.label for row in rows):
        return [row.label for row in rows]
    return [row.report for row in rows]


def precision_table(found: Similarities, rows: Sequence[Row], ks: Sequence[int]) -> dict[str, dict[str, float]]:
    """Return Precision@K of images and reports of the same rows, in both directions.

    A row's own report counts as relevant, as in the released evaluation.

    Args:
        found: similarities of these rows' images with their reports.
        rows: one image and one report each.
        ks: values of K; those above the number of rows are left out.

    Returns:
        For "image to text" and "text to image": "<by> P@<k>" for every way of ranking, and "chance".
    """
    labels = labels_of(rows)
    table: dict[str, dict[str, float]] = {}
    for direction in ("image to text", "text to image"):
        line = table[direction] = {"chance": chance(labels, labels)}
        for by in BY:
            scores = found.by(by) if direction == "image to text" else found.by(by).T
            line |= {f"{by} P@{k}": precision_at(scores, labels, labels, k) for k in ks if k <= len(rows)}
    return table


def format_precision(table: dict[str, dict[str, float]]) -> str:
    """Format the table of `precision_table`, in percent: a line for each direction and way of ranking."""
    ks = [name.removeprefix("global ") for name in table["image to text"] if name.startswith("global ")]
    lines = [f"{'direction':<15}{'ranked by':<11}" + "".join(f"{k:>8}" for k in ks) + f"{'chance':>9}"]
    for direction, values in table.items():
        for by in BY:
            figures = "".join(f"{100 * values[f'{by} {k}']:>8.1f}" for k in ks)
            lines.append(f"{direction:<15}{by:<11}{figures}{100 * values['chance']:>9.1f}")
    return "\n".join(lines)


def _ranked_relevance(scores: Tensor, queries: Sequence[str], candidates: Sequence[str], k: int) -> Tensor:
    """Return whether the candidate at each rank of each query is relevant, (queries, candidates) bool."""
    if scores.shape != (len(queries), len(candidates)):
        raise ValueError(
            f"scores are {tuple(scores.shape)} for {len(queries)} queries and {len(candidates)} candidates; expected "
            "(queries, candidates)"
        )
    if not 1 <= k <= len(candidates):
        raise ValueError(f"k is {k}; expected 1 to the number of candidates, {len(candidates)}")
    order = scores.argsort(dim=1, descending=True, stable=True)
    return _relevance(queries, candidates).gather(1, order)


def _relevance(queries: Sequence[str], candidates: Sequence[str]) -> Tensor:
    number = {label: index for index, label in enumerate(dict.fromkeys([*queries, *candidates]))}
    left = torch.tensor([number[label] for label in queries])
    right = torch.tensor([number[label] for label in candidates])
    return left[:, None] == right[None, :]
