"""Retrieval while training: Precision@K and Recall@K of held-out rows, as measures that Trainer logs and compares."""

from collections.abc import Sequence

from gloria.data.reports import text_id
from gloria.data.table import Row
from gloria.modeling import GloriaModel
from gloria.processing import GloriaProcessor
from gloria.retrieval import labels_of, precision_at, recall_at, similarities, trained_by

DIRECTIONS = ("image_to_text", "text_to_image")


def measure_names(rows: int, ks: Sequence[int]) -> list[str]:
    """Return the names of what `retrieval_measures` gives for so many rows."""
    return [f"{direction}_{kind}@{k}" for direction in DIRECTIONS for kind in "PR" for k in ks if k <= rows]


def retrieval_measures(
    model: GloriaModel, processor: GloriaProcessor, rows: Sequence[Row], ks: Sequence[int], batch_size: int
) -> dict[str, float]:
    """Measure Precision@K (P) and Recall@K (R), in both directions, ranked by all that is trained.

    Precision@K: the mean share of the K best that have the label of the query (the report where there are no labels),
    as in the released evaluation. Recall@K: the share of queries whose own partner, or one of an equal report, is among
    the K best, as image-text retrieval is usually measured.

    Args:
        model: in evaluation mode while this runs.
        processor: of that model.
        rows: at least two; every image is ranked for every report, and the reverse.
        ks: the K; those beyond the number of rows are left out.
        batch_size: rows that are encoded at once.

    Returns:
        "image_to_text_P@5" and the like, in [0, 1].
    """
    found = similarities(model, processor, [row.image for row in rows], [row.report for row in rows], batch_size)
    scores = found.by(trained_by(model))
    labels, own = labels_of(rows), [str(text_id(row.report)) for row in rows]
    measures: dict[str, float] = {}
    for direction, ranked in zip(DIRECTIONS, (scores, scores.T), strict=True):
        fitting = [k for k in ks if k <= len(rows)]
        measures |= {f"{direction}_P@{k}": precision_at(ranked, labels, labels, k) for k in fitting}
        measures |= {f"{direction}_R@{k}": recall_at(ranked, own, own, k) for k in fitting}
    return measures


def evenly_spaced(rows: Sequence[Row], most: int) -> list[Row]:
    """Return at most so many of the rows, evenly spaced, so that a sorted table is not judged by its beginning."""
    count = min(most, len(rows))
    return [rows[index * len(rows) // count] for index in range(count)]
