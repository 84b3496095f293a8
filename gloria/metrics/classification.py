"""Figures of a classifier of labels: AUROC, and the operating point of the best F1."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc, binary_precision_recall_curve

from gloria.zero_shot.metrics import MACRO, METRICS


def auroc_table(scores: Tensor, truth: Tensor, classes: Sequence[str]) -> dict[str, Any]:
    """Return the area under the ROC curve of each class, and their mean.

    A class without positives, or without negatives, has none. torchmetrics counts it as 0, which a mean then takes in.

    Args:
        scores: (N, C), high = present; logits or probabilities.
        truth: (N, C), 1 = present, 0 = absent, NaN = not labeled, which is left out.
        classes: C names.

    Returns:
        "classes": the area of each class, None where there is none; "macro": the plain mean of the others, None where
        there is no other; "macro_of": the names of these.

    Raises:
        ValueError: shapes that do not fit, a score that is NaN or infinite, a label that is none of 1, 0 and NaN.
    """
    _check(scores, truth, classes)
    areas: dict[str, float | None] = {}
    for column, name in enumerate(classes):
        labeled = ~truth[:, column].isnan()
        ranks, present = _ranks(scores[labeled, column])[1], truth[labeled, column].long()
        areas[name] = binary_auroc(ranks, present).item() if len(present.unique()) == 2 else None
    found = {name: area for name, area in areas.items() if area is not None}
    macro = sum(found.values()) / len(found) if found else None
    return {"classes": areas, "macro": macro, "macro_of": list(found)}


def best_f1_thresholds(scores: Tensor, truth: Tensor, classes: Sequence[str]) -> dict[str, float]:
    """Return for each class the score from which on an answer is "present", so that the F1 of these rows is highest.

    Take validation rows, and apply the thresholds to others.

    Args, Raises:
        As `auroc_table`.

    Returns:
        The lowest of equally good thresholds, infinite for a class without positives.
    """
    _check(scores, truth, classes)
    thresholds = {}
    for column, name in enumerate(classes):
        labeled = ~truth[:, column].isnan()
        levels, ranks = _ranks(scores[labeled, column])
        present = truth[labeled, column].long()
        thresholds[name] = math.inf
        if present.any():
            precision, recall, _ = binary_precision_recall_curve(ranks, present)
            f1 = (2 * precision * recall / (precision + recall)).nan_to_num()[:-1]  # the last answers "absent" always
            thresholds[name] = levels[f1.argmax()].item()
    return thresholds


def threshold_table(scores: Tensor, truth: Tensor, thresholds: dict[str, float]) -> dict[str, dict[str, float]]:
    """Return accuracy, sensitivity, specificity, PPV, NPV and F1 where a score of at least the threshold is "present".

    Args:
        scores: (N, C), high = present.
        truth: (N, C), 1 = present, 0 = absent.
        thresholds: of each class, as `best_f1_thresholds` gives them of other rows.

    Returns:
        For each class and for "macro", the plain mean over the classes, the six metrics.

    Raises:
        As `auroc_table`; a row that is not labeled.
    """
    classes = list(thresholds)
    _check(scores, truth, classes)
    if truth.isnan().any():
        raise ValueError("truth has labels that are NaN; expected 1 or 0 for every row and class")
    answers = (scores >= scores.new_tensor(list(thresholds.values()))).long()
    table: dict[str, dict[str, float]] = {name: {} for name in (*classes, MACRO)}
    for metric, function in METRICS.items():
        values = function(answers, truth.long(), num_labels=len(classes), average="none").reshape(-1)
        for name, value in zip((*classes, MACRO), (*values.tolist(), values.mean().item()), strict=True):
            table[name][metric] = value
    return table


def _ranks(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scores that occur, in rising order, and which of them each score is, as a share of their number.

    torchmetrics takes scores beyond [0, 1] for logits, and a sigmoid makes large ones equal.
    """
    levels, indices = scores.unique(return_inverse=True)
    return levels, indices.double() / max(1, len(levels))


def _check(scores: Tensor, truth: Tensor, classes: Sequence[str]) -> None:
    if scores.dim() != 2 or scores.shape != truth.shape or scores.shape[1] != len(classes) or not len(scores):
        raise ValueError(
            f"scores are {tuple(scores.shape)} and truth {tuple(truth.shape)} for {len(classes)} classes; expected a "
            "score and a label of every row for every class"
        )
    if not scores.isfinite().all():
        raise ValueError("scores are NaN or infinite; the model's weights, or its pixels, are not finite")
    if not torch.isin(truth[~truth.isnan()], truth.new_tensor([0, 1])).all():
        raise ValueError("truth holds labels that are none of 1, 0 and NaN; settle uncertain ones first")
