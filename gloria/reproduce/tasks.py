"""TASKS: what a pre-trained system is measured by, one function for each, whose results are JSON."""

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gloria.data import Row, draws_of
from gloria.finetuning import FinetuningOptions, finetune_classifier, finetune_segmenter, image_vectors
from gloria.heads import GloriaForImageClassification
from gloria.images import GloriaImageProcessor
from gloria.metrics import best_f1_thresholds, threshold_table
from gloria.modeling import GloriaModel
from gloria.processing import GloriaProcessor
from gloria.prompts import Prompts
from gloria.reproduce.budget import Budget
from gloria.retrieval import precision_table, similarities, trained_by
from gloria.zero_shot import ZeroShotClassifier, classification_table
from gloria.zero_shot.metrics import METRICS

KS = (5, 10, 100)


class Given(NamedTuple):
    """What a task is given.

    run: folder of the pre-trained system.
    rows: of the task, by their split.
    asked: rows of zero-shot classification, by which classifiers are compared with it; none where there is no such.
    prompts: of their classes.
    fraction: of the labels.
    seed: of the first draw.
    budget: the same for all systems.
    cache: folder of decoded images.
    """

    run: Path
    rows: dict[str, list[Row]]
    asked: list[Row]
    prompts: Prompts
    fraction: float
    seed: int
    budget: Budget
    cache: Path


def retrieval(given: Given) -> dict[str, Any]:
    """Return Precision@K of images and reports, ranked by what the system is trained with."""
    model, processor = GloriaModel.from_pretrained(given.run), GloriaProcessor.from_pretrained(given.run)
    rows = given.rows["test"]
    found = similarities(model, processor, [row.image for row in rows], [row.report for row in rows])
    by, table = trained_by(model), precision_table(found, rows, KS)
    line = table["image to text"]
    figures = {f"P@{k}": line[f"{by} P@{k}"] for k in KS if f"{by} P@{k}" in line}
    return {"figures": figures, "chance": line["chance"], "by": by, "table": table}


def zero_shot(given: Given) -> dict[str, Any]:
    """Return the figures of classification by prompts, without any label: the class of the highest score."""
    classifier = ZeroShotClassifier.from_pretrained(given.run, given.prompts)
    rows = given.rows["test"]
    scores = classifier.scores([row.image for row in rows])
    predicted = [classifier.classes[index] for index in scores.argmax(1).tolist()]
    truth = [row.label for row in rows]
    table = classification_table(predicted, truth, classifier.classes)
    asked = {name for row in rows for name in row.labels}  # what classifiers are asked too
    classes = [name for name in classifier.classes if name in asked]
    guessed = {name: _guessed(truth.count(name) / len(truth), 1 / len(classifier.classes)) for name in classes}
    return {"figures": _macro(table, classes), "of": classes, "chance": _macro(guessed, classes), "table": table}


def classification(given: Given) -> dict[str, Any]:
    """Return AUROC of a linear probe, and its figures at thresholds of the best F1 on validation; means over draws."""
    vectors: dict[Path, Tensor] = {}
    draws = []
    for draw in _draws(given):
        with tempfile.TemporaryDirectory() as folder:
            held_out = given.rows["test"]
            found = finetune_classifier(
                given.run,
                given.rows["train"],
                held_out,
                labels=given.fraction,
                seed=draw,
                out=folder,
                options=FinetuningOptions(cpu=True),
                vectors=vectors,
            )
            if found["auroc"]["macro"] is None:
                raise ValueError("no class has test rows with and without it, which AUROC compares; take other rows")
            figures = {"AUROC": found["auroc"]["macro"]}
            if given.asked:
                figures |= _at_thresholds(Path(folder), given, vectors)
        draws.append({"seed": draw, "figures": figures, "auroc": found["auroc"], "labels": found["training_rows"]})
    return _over(draws) | {"chance": 0.5}


def segmentation(given: Given) -> dict[str, Any]:
    """Return Dice of positives, empties right and the released mixture of a segmenter; means over draws."""
    draws = []
    for draw in _draws(given):
        found = finetune_segmenter(
            given.run,
            given.rows["train"],
            given.rows["test"],
            labels=given.fraction,
            seed=draw,
            options=FinetuningOptions(
                steps=given.budget.mask_steps,
                learning_rate=given.budget.learning_rate,
                cache=str(given.cache),
                cpu=True,
            ),
        )
        dice = found["dice"]
        figures = {name: dice[name] for name in ("dice_of_positives", "empties_right", "released_mixture")}
        draws.append({"seed": draw, "figures": figures, "labels": found["training_rows"]})
    return _over(draws) | {"chance": dice["nothing_anywhere"], "positives": dice["positives"], "images": dice["images"]}


TASKS: Mapping[str, Callable[[Given], dict[str, Any]]] = {
    "retrieval": retrieval,
    "zero-shot": zero_shot,
    "classification": classification,
    "segmentation": segmentation,
}


def _draws(given: Given) -> range:
    """Return the seeds of the draws: ten where they have few labels, of which no two systems' seeds share one."""
    count = draws_of(math.ceil(given.fraction * len(given.rows["train"])))
    return range(given.seed * count, (given.seed + 1) * count)


def _over(draws: Sequence[dict[str, Any]]) -> dict[str, Any]:
    figures = {name: mean(draw["figures"][name] for draw in draws) for name in draws[0]["figures"]}
    return {"figures": figures, "labels": draws[0]["labels"], "draws": list(draws)}


def _at_thresholds(folder: Path, given: Given, vectors: dict[Path, Tensor]) -> dict[str, float]:
    """Return the figures of the classifier in a folder on the rows of zero-shot classification."""
    model = GloriaForImageClassification.from_pretrained(folder)
    processor = GloriaImageProcessor.from_pretrained(folder)
    classes = [name for _, name in sorted((model.config.id2label or {}).items())]

    def scored(rows: Sequence[Row]) -> Tensor:
        with torch.no_grad():
            return model.classifier(image_vectors(model, processor, rows, vectors))

    validation = given.rows["validation"]
    truth = torch.tensor([[float(row.labels[name]) for name in classes] for row in validation])
    thresholds = best_f1_thresholds(scored(validation), truth, classes)
    asked = torch.tensor([[float(row.label == name) for name in classes] for row in given.asked])
    return _macro(threshold_table(scored(given.asked), asked, thresholds), classes)


def _guessed(present: float, answered: float) -> dict[str, float]:
    """Return the figures of a class that is present in one share of the images and guessed in another."""
    right = present * answered
    return {
        "accuracy": right + (1 - present) * (1 - answered),
        "sensitivity": answered,
        "specificity": 1 - answered,
        "PPV": present,
        "NPV": 1 - present,
        "F1": 2 * right / (present + answered),
    }


def _macro(table: Mapping[str, Mapping[str, float]], classes: Sequence[str]) -> dict[str, float]:
    return {metric: mean(table[name][metric] for name in classes) for metric in METRICS}
