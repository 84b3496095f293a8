"""Measures retrieval while training: Precision@K and Recall@K of held-out rows, for Trainer to log and compare."""

from collections.abc import Sequence

from gloria.data.reports import text_id
from gloria.data.table import Row
from gloria.modeling import GloriaModel
from gloria.processing import GloriaProcessor
from gloria.retrieval import labels_of, precision_at, recall_at, similarities, trained_by

DIRECTIONS = ("image_to_text", "text_to_image")


def measure_names(rows: int, ks: Sequence[int]) -> list[str]:
    """Return the names of the figures that `retrieval_measures` gives for this many rows."""
    return [f"{direction}_{kind}@{k}" for direction in DIRECTIONS for kind in "PR" for k in ks if k <= rows]


def retrieval_measures(
    model: GloriaModel, processor: GloriaProcessor, rows: Sequence[Row], ks: Sequence[int], batch_size: int
) -> dict[str, float]:
    """Measure Precision@K (P) and Recall@K (R) in both directions, ranked by the scores that are trained.

    Precision@K is the mean share of the K best that have the query's label (or report, without labels), as in the
    released evaluation. Recall@K is the share of queries whose own partner, or one with an equal report, is among the K
    best, as image-text retrieval is usually measured.

    Args:
        model: put into evaluation mode while this runs.
        processor: processor of that model.
        rows: at least two rows; every image is ranked for every report, and the reverse.
        ks: values of K; those above the number of rows are left out.
        batch_size: rows encoded at once.

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
    """Return at most `most` rows, evenly spaced, so that they cover all of a sorted table."""
    count = min(most, len(rows))
    return [rows[index * len(rows) // count] for index in range(count)]
