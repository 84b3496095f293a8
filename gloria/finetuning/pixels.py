"""Labeled images for training: pixels with the labels of each row, in a data set that Trainer reads."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from gloria.data import PixelCache
from gloria.images import GloriaImageProcessor

KEPT = 256  # images in memory: few labels are read again and again


class LabeledImages(Dataset):
    """Images with labels, as Trainer gives them to a head.

    Args:
        count: number of images.
        read: gives the pixels (3, H, W) and the labels of an image.
    """

    def __init__(self, count: int, read: Callable[[int], tuple[Tensor, Tensor]]) -> None:
        self.count, self.read = count, lru_cache(KEPT)(read)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return pixel_values and labels."""
        pixel_values, labels = self.read(index)
        return {"pixel_values": pixel_values, "labels": labels}


def framing(image_processor: GloriaImageProcessor, cache: str | None) -> Callable[[Any], np.ndarray]:
    """Return what frames an image file, through a cache if one is named."""
    return PixelCache(cache, image_processor) if cache else image_processor.frame


def to_pixels(image_processor: GloriaImageProcessor, framed: np.ndarray) -> Tensor:
    """Return a framed image as the model takes it, (3, H, W) float32."""
    return torch.from_numpy(image_processor.to_pixels(framed))
