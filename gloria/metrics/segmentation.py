"""Figures of a segmenter: Dice of images with the finding, empty images left empty, and the two mixed as released."""

from collections.abc import Iterable
from typing import Any

import numpy as np


def dice_table(masks: Iterable[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """Return how well masks were predicted, beside an answer that finds nothing anywhere.

    The mixture is what the released GLoRIA reports: Dice of an image with the finding, and 1 or 0 of an image without,
    averaged over all images. Of a set with few findings it is high for an answer that never finds any.

    Args:
        masks: predicted and true mask of each image, both (height, width) bool.

    Returns:
        "dice_of_positives": mean of 2 |P ∩ T| / (|P| + |T|) over the images with the finding; "empties_right": share of
        the others for which nothing was predicted; "released_mixture"; each None where there is no such image.
        "images", "positives": how many there are. "nothing_anywhere": the three figures of empty predictions.

    Raises:
        ValueError: no image; a mask of another size.
    """
    dice, empty = [], []
    for number, (predicted, true) in enumerate(masks):
        if predicted.shape != true.shape:
            raise ValueError(
                f"the predicted mask of image {number} is {predicted.shape} and the true one {true.shape}; expected "
                "masks of one size"
            )
        if true.any():
            dice.append(2 * (predicted & true).sum() / (predicted.sum() + true.sum()))
        else:
            empty.append(not predicted.any())
    if not dice and not empty:
        raise ValueError("masks is empty; expected one image or more")
    return {
        **_figures(dice, empty),
        "images": len(dice) + len(empty),
        "positives": len(dice),
        "nothing_anywhere": _figures([0.0] * len(dice), [True] * len(empty)),
    }


def _figures(dice: list[float], empty: list[bool]) -> dict[str, float | None]:
    return {
        name: float(np.mean(values)) if values else None
        for name, values in (
            ("dice_of_positives", dice),
            ("empties_right", empty),
            ("released_mixture", [*dice, *empty]),
        )
    }
