"""Fine-tunes a classifier on labeled rows, and measures it on others: a linear probe, or the encoder with it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gloria.data import Row, draw_fraction
from gloria.finetuning.options import FINETUNING, FinetuningOptions
from gloria.finetuning.pixels import LabeledImages, framing, to_pixels
from gloria.finetuning.probe import fit_classifier
from gloria.finetuning.start import start_from
from gloria.finetuning.targets import classes_of
from gloria.finetuning.training import check_labels, check_out, save_head, train_head
from gloria.heads import GloriaForImageClassification
from gloria.heads.classification import PROBLEM_TYPES
from gloria.images import GloriaImageProcessor
from gloria.metrics import auroc_table

AT_ONCE = 32  # images that are encoded at once


def finetune_classifier(
    run: str | Path,
    training: Sequence[Row],
    held_out: Sequence[Row],
    *,
    labels: float = 1.0,
    frozen: bool = True,
    seed: int = 0,
    out: str | Path | None = None,
    random_start: bool = False,
    options: FinetuningOptions = FINETUNING,
    vectors: dict[Path, Tensor] | None = None,
) -> dict[str, Any]:
    """Fine-tune a classifier of images, and measure its AUROC.

    With a frozen encoder, as released, this is a linear probe: only a linear layer on the image vectors is fitted, see
    `gloria.finetuning.probe.fit_classifier`, and `options` do not matter. Else all weights are trained by steps.

    Args:
        run: folder of any GLoRIA.
        training: rows with `labels` (any number of classes each) or a `label` (one each). An uncertain label, and a
            class that a row does not mention, is unknown.
        held_out: rows with the same labels, of other patients.
        labels: fraction of the training rows that is drawn, see `gloria.data.draw_fraction`.
        frozen: keep the encoder as it is, running statistics included.
        seed: of the draw, the new weights and the order.
        out: folder for the model, which `pipeline("image-classification", out)` takes, and metrics.json. None: neither.
        random_start: give the encoder new weights, as a baseline.
        options: how to train what is not frozen.
        vectors: of images that this run's frozen encoder has encoded before, by path; others are added. For several
            draws of one table.

    Returns:
        "task", "auroc" (see `gloria.metrics.auroc_table`), "exclusive" (whether a row has one class), "labels",
        "frozen", "seed", "random_start", "training_rows", those that were drawn, and "held_out_rows".

    Raises:
        ValueError: no labels, or of one class only; too small a fraction; a folder without an image encoder; a model in
        `out` already; an image that cannot be read.
    """
    check_out(out)
    check_labels(labels)
    classes = classes_of(training)
    drawn = draw_fraction(training, labels, seed)
    problem_type = PROBLEM_TYPES[classes.exclusive]
    model, image_processor = start_from(
        run, GloriaForImageClassification, classes.names, seed, random_start, options.cpu, problem_type=problem_type
    )
    truth = classes.truth(drawn)
    targets = truth.argmax(1) if classes.exclusive else truth
    known = vectors if frozen and vectors is not None else {}
    if frozen:
        model.freeze()
        fit_classifier(model, image_vectors(model, image_processor, drawn, known), targets)
    else:
        framed = framing(image_processor, options.cache)

        def read(number: int) -> tuple[Tensor, Tensor]:
            return to_pixels(image_processor, framed(drawn[number].image)), targets[number]

        train_head(model, LabeledImages(len(drawn), read), options, seed)
    held = image_vectors(model, image_processor, held_out, known)
    with torch.no_grad():
        scores = model.probabilities(model.classifier(held.to(model.device))).cpu()
    metrics = {
        "task": "classification",
        "auroc": auroc_table(scores, classes.truth(held_out), classes.names),
        "exclusive": classes.exclusive,
        "labels": labels,
        "frozen": frozen,
        "seed": seed,
        "random_start": random_start,
        "training_rows": len(drawn),
        "held_out_rows": len(held_out),
    }
    if out is not None:
        save_head(model, image_processor, metrics, out)
    return metrics


def image_vectors(
    model: GloriaForImageClassification,
    image_processor: GloriaImageProcessor,
    rows: Sequence[Row],
    known: dict[Path, Tensor],
) -> Tensor:
    """Return what the classifier takes of each row's image, (rows, C) on the CPU.

    Args:
        model: in evaluation mode from here on.
        image_processor: of its run.
        rows: each with an image.
        known: vectors by the path of the image, which are not computed again; the others are added.

    Raises:
        ValueError: an image that cannot be read.
    """
    model.eval()
    missing = [image for image in dict.fromkeys(row.image for row in rows) if image and image not in known]
    with torch.no_grad():
        for start in range(0, len(missing), AT_ONCE):
            images = missing[start : start + AT_ONCE]
            pixel_values = image_processor.preprocess(images, return_tensors="pt")["pixel_values"].to(model.device)
            known.update(zip(images, model.get_image_vectors(pixel_values).cpu(), strict=True))
    return torch.stack([known[row.image] for row in rows if row.image])
