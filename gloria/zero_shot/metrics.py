"""Measures a classification, each class against all others, and the means over the classes."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torchmetrics.functional import classification as functional

# Radiologists' names. Each class counts as its own test, positive if the class is the answer.
METRICS: dict[str, Callable[..., Tensor]] = {
    "accuracy": functional.multilabel_accuracy,
    "sensitivity": functional.multilabel_recall,
    "specificity": functional.multilabel_specificity,
    "PPV": functional.multilabel_precision,
    "NPV": functional.multilabel_negative_predictive_value,
    "F1": functional.multilabel_f1_score,
}
MACRO, ALL = "macro", "all"


def classification_table(
    predicted: Sequence[str], labels: Sequence[str], classes: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Return accuracy, sensitivity, specificity, PPV, NPV and F1.

    The PPV of a class that was never predicted is 0 / 0, and counts as 0, as in torchmetrics; so does the sensitivity
    of a class without images.

    Args:
        predicted: predicted class of each image.
        labels: true class of each image.
        classes: at least two classes, each once.

    Returns:
        For each class: the six metrics, and "images", the number of images with that label. For "macro": the plain
        means over the classes. For "all": "accuracy", the share of correct images, and "images".

    Raises:
        ValueError: no image; different numbers of labels and predictions; an unknown class.
    """
    if not len(labels) or len(labels) != len(predicted):
        raise ValueError(f"there are {len(predicted)} predictions and {len(labels)} labels; expected one of each image")
    number = {name: index for index, name in enumerate(classes)}
    for name in (*predicted, *labels):
        if name not in number:
            raise ValueError(f"{name!r} is none of the classes {', '.join(map(repr, classes))}")
    answers, truth = (
        torch.nn.functional.one_hot(torch.tensor([number[name] for name in names]), len(classes))
        for names in (predicted, labels)
    )
    counts = truth.sum(0).tolist()
    table = {name: {"images": float(count)} for name, count in zip(classes, counts, strict=True)}
    table[MACRO] = {"images": float(len(labels))}
    for metric, function in METRICS.items():
        values = function(answers, truth, num_labels=len(classes), average="none").tolist()
        for name, value in zip(classes, values, strict=True):
            table[name][metric] = value
        table[MACRO][metric] = float(function(answers, truth, num_labels=len(classes), average="macro"))
    right = sum(given == label for given, label in zip(predicted, labels, strict=True))
    table[ALL] = {"accuracy": right / len(labels), "images": float(len(labels))}
    return table


def format_classification(table: dict[str, dict[str, float]]) -> str:
    """Format the table of `classification_table`, in percent."""
    width = max(12, *map(len, table)) + 2
    lines = [f"{'class':<{width}}{'images':>8}" + "".join(f"{metric:>13}" for metric in METRICS)]
    for name, values in table.items():
        if name != ALL:
            figures = "".join(f"{100 * values[metric]:>13.1f}" for metric in METRICS)
            lines.append(f"{name:<{width}}{values['images']:>8.0f}{figures}")
    return "\n".join([*lines, f"accuracy over all classes: {100 * table[ALL]['accuracy']:.1f}"])
