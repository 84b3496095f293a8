"""Fine-tunes a segmenter of one finding on rows with masks, and measures its Dice on others."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gloria.data import Row, draw_fraction
from gloria.finetuning.options import FINETUNING, FinetuningOptions
from gloria.finetuning.pixels import LabeledImages, framing, to_pixels
from gloria.finetuning.start import start_from
from gloria.finetuning.training import check_labels, check_out, save_head, train_head
from gloria.heads import GloriaForSemanticSegmentation
from gloria.images import GloriaImageProcessor, read_mask, to_rgb
from gloria.metrics import dice_table

BACKGROUND = "background"


def finetune_segmenter(
    run: str | Path,
    training: Sequence[Row],
    held_out: Sequence[Row],
    *,
    finding: str = "finding",
    labels: float = 1.0,
    frozen: bool = False,
    seed: int = 0,
    out: str | Path | None = None,
    random_start: bool = False,
    options: FinetuningOptions = FINETUNING,
) -> dict[str, Any]:
    """Fine-tune a segmenter of one finding, and measure its Dice; the encoder is trained too unless it is frozen.

    Args:
        run: folder of any GLoRIA.
        training: rows with a mask, black where the finding is absent; a row without one is unknown, and left out.
        held_out: the same, of other patients.
        finding: its name.
        labels: fraction of the training rows with masks that is drawn, stratified by `labels` or `label` where rows
            have them, see `gloria.data.draw_fraction`; where they have none, by whether the mask is black.
        frozen: keep the encoder as it is, running statistics included, and train the decoder alone.
        seed: of the draw, the new weights and the order.
        out: folder for the model, which `pipeline("image-segmentation", out)` takes, and metrics.json. None: neither.
        random_start: give the encoder new weights, as a baseline.
        options: how to train.

    Returns:
        "task", "dice" (see `gloria.metrics.dice_table`), "finding", "labels", "frozen", "seed", "random_start",
        "training_rows", those that were drawn, and "held_out_rows".

    Raises:
        ValueError: no masks; a mask that is unreadable, or of another size than its image; too small a fraction; a
        folder without an image encoder; a model in `out` already; an image that cannot be read.
    """
    check_out(out)
    check_labels(labels)
    training, held_out = (_with_masks(rows, name) for rows, name in ((training, "training"), (held_out, "held_out")))
    drawn = draw_fraction(training, labels, seed) if labels != 1 else training
    for row in (*drawn, *held_out):  # before hours of training, not after them
        _checked_mask(row)
    model, image_processor = start_from(
        run, GloriaForSemanticSegmentation, [BACKGROUND, finding], seed, random_start, options.cpu
    )
    if frozen:
        model.freeze()
    framed = framing(image_processor, options.cache)

    def read(number: int) -> tuple[Tensor, Tensor]:
        row = drawn[number]
        mask = image_processor.frame_mask(_checked_mask(row))
        return to_pixels(image_processor, framed(row.image)), torch.from_numpy(mask.astype(np.int64))

    train_head(model, LabeledImages(len(drawn), read), options, seed)
    metrics = {
        "task": "segmentation",
        "dice": dice_table(predicted_masks(model, image_processor, held_out)),
        "finding": finding,
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


def predicted_masks(
    model: GloriaForSemanticSegmentation, image_processor: GloriaImageProcessor, rows: Sequence[Row]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the predicted and the true mask of each row, (height, width) bool in pixels of the original image.

    Args:
        model: of two classes, the background first.
        image_processor: of its run.
        rows: with image and mask.

    Raises:
        ValueError: a mask of another size than its image; an image that cannot be read.
    """
    model.eval()
    for row in rows:
        true = _checked_mask(row)
        pixel_values = image_processor.preprocess(row.image, return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            outputs = model(pixel_values.to(model.device))
        predicted = image_processor.post_process_semantic_segmentation(outputs, [true.shape])[0]
        yield predicted.cpu().numpy() > 0, true


def _with_masks(rows: Sequence[Row], name: str) -> list[Row]:
    kept = [row for row in rows if row.mask]
    if not kept:
        raise ValueError(f"none of the {len(rows)} rows of {name} has a mask; expected a column mask, filled in some")
    return kept


def _checked_mask(row: Row) -> np.ndarray:
    try:
        mask, (width, height) = read_mask(row.mask), to_rgb(row.image).size
    except (OSError, ValueError) as error:
        raise ValueError(f"{row.where}: {error}") from error
    if mask.shape != (height, width):
        raise ValueError(
            f"{row.where}: the mask {row.mask} has {mask.shape[1]} x {mask.shape[0]} pixels and the image {width} x "
            f"{height}; expected a mask of the size of its image"
        )
    return mask
