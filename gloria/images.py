"""GloriaImageProcessor: makes normalized square pixels of a picture of any mode, depth and size, with PIL alone."""

import io
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor

from gloria.decoding import decoded
from gloria.depth import eight_bit
from gloria.dicom import is_dicom, read_dicom


class GloriaImageProcessor(BaseImageProcessor):
    """Resizes the longer side, pads to a square, crops the middle and normalizes, as the released code does.

    The released code resizes to 256, crops 224, and lets the model enlarge the crop to 299. Here the same field of view
    is taken from the original at 299, so that pixels are interpolated once: the longer side is 342 = 299 x 256 / 224.

    Args:
        size: side of the padded square, in pixels. Default: `crop_size` x 256 / 224, rounded.
        crop_size: side of the middle square that is kept, in pixels. 299 gives 19 x 19 regions in stage 3 of a
            ResNet-50.
        image_mean: per channel, of pixels in [0, 1]. Default 0.5, released ("half").
        image_std: per channel, of pixels in [0, 1]. Default 0.5, released ("half").

    Raises:
        ValueError: `crop_size` below 1 or above `size`; a standard deviation that is not positive.
    """

    def __init__(
        self,
        size: int | None = None,
        crop_size: int = 299,
        image_mean: Sequence[float] = (0.5, 0.5, 0.5),
        image_std: Sequence[float] = (0.5, 0.5, 0.5),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.size = round(crop_size * 256 / 224) if size is None else size
        self.crop_size = crop_size
        self.image_mean = list(image_mean)
        self.image_std = list(image_std)
        if not 1 <= crop_size <= self.size:
            raise ValueError(
                f"crop_size is {crop_size} and size {self.size}; expected 1 <= crop_size <= size, since the crop is "
                "taken from a square of that size"
            )
        if len(self.image_mean) != 3 or len(self.image_std) != 3 or min(self.image_std) <= 0:
            raise ValueError(
                f"image_mean is {self.image_mean} and image_std {self.image_std}; expected three numbers each "
                "(images are made RGB), the standard deviations above 0"
            )

    def preprocess(self, images: Any, return_tensors: str | None = None) -> BatchFeature:
        """Turn images into pixels.

        Args:
            images: one image or a sequence of them: PIL image, path of a local file (DICOM too), open binary file, or
                array or tensor (H, W), (H, W, C) or (C, H, W) with C of 1, 3 or 4. See `to_rgb` for modes and depths.
            return_tensors: "pt", or "np" or None for an array.

        Returns:
            BatchFeature with pixel_values (B, 3, crop_size, crop_size) float32.

        Raises:
            TypeError, ValueError: no image; an image that `to_rgb` cannot read: the message says which of the batch.
        """
        batch = [images] if is_single_image(images) else list(images)
        if not batch:
            raise ValueError("images is empty; expected one image or more")
        pixels = []
        for position, image in enumerate(batch):
            try:
                pixels.append(self.to_pixels(self.frame(image)))
            except TypeError as error:
                raise TypeError(f"images[{position}]: {error}") from error
            except ValueError as error:
                raise ValueError(f"images[{position}]: {error}") from error
        return BatchFeature({"pixel_values": np.stack(pixels)}, tensor_type=return_tensors)

    def frame(self, image: Any) -> np.ndarray:
        """Resize, pad and crop an image: (crop_size, crop_size, 3) uint8."""
        return np.asarray(self._framed(to_rgb(image), Image.Resampling.BILINEAR))

    def frame_mask(self, mask: np.ndarray) -> np.ndarray:
        """Return a mask of an image, (height, width) bool, as `frame` places the image: (crop_size, crop_size) bool."""
        return np.asarray(self._framed(Image.fromarray(mask), Image.Resampling.NEAREST))

    def to_pixels(self, framed: np.ndarray) -> np.ndarray:
        """Normalize the result of `frame` for the model: (3, crop_size, crop_size) float32."""
        levels = np.arange(256, dtype=np.float32) / 255
        mean, std = (np.asarray(each, np.float32)[:, None] for each in (self.image_mean, self.image_std))
        # A byte has 256 values: looking them up takes half the time of computing every pixel.
        tables, channels = (levels - mean) / std, np.moveaxis(framed, 2, 0)
        return np.stack([table[channel] for table, channel in zip(tables, channels, strict=True)])

    def field_of_view(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Return the rectangle of an image that the model sees.

        Args:
            width: width of the result of `to_rgb`, in pixels.
            height: height of the same image, in pixels.

        Returns:
            left, top, right, bottom in pixels of the image, continuous: 0 is the outer edge of the first pixel, 1 its
            inner one. Padding lies below 0 or beyond the size. `gloria.attention` knows where the regions lie in it.
        """
        left, top, (scaled_width, scaled_height) = self._crop_placement(width, height)
        x, y = width / scaled_width, height / scaled_height
        return left * x, top * y, (left + self.crop_size) * x, (top + self.crop_size) * y

    def post_process_semantic_segmentation(
        self, outputs: Any, target_sizes: Sequence[tuple[int, int]] | None = None
    ) -> list[torch.Tensor]:
        """Return the class of each pixel of the original images, which undoes the crop.

        Args:
            outputs: of a semantic segmentation, with logits (B, classes, H, W) of what `preprocess` gave.
            target_sizes: (height, width) of each original image. None: classes of the pixels that the model saw.

        Returns:
            B tensors (height, width) int64; 0, the background, where the model has seen nothing of the image.
        """
        logits = outputs.logits.float()
        if target_sizes is None:
            return list(logits.argmax(1))
        return [self._in_original(each, *size) for each, size in zip(logits, target_sizes, strict=True)]

    def _in_original(self, logits: torch.Tensor, height: int, width: int) -> torch.Tensor:
        left, top, right, bottom = self.field_of_view(width, height)
        # Where the middle of each pixel of the original lies in the crop, -1 to 1 from edge to edge.
        x = ((torch.arange(width) + 0.5 - left) / (right - left) * 2 - 1).to(logits)
        y = ((torch.arange(height) + 0.5 - top) / (bottom - top) * 2 - 1).to(logits)
        places = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)
        sampled = torch.nn.functional.grid_sample(
            logits[None], places[None], mode="bilinear", padding_mode="border", align_corners=False
        )[0]
        return sampled.argmax(0).where((places.abs() <= 1).all(-1), 0)

    def _framed(self, picture: Image.Image, resampling: Image.Resampling) -> Image.Image:
        left, top, scaled_size = self._crop_placement(*picture.size)
        # A crop is black outside the image: this is the padding.
        return picture.resize(scaled_size, resampling).crop((left, top, left + self.crop_size, top + self.crop_size))

    def _crop_placement(self, width: int, height: int) -> tuple[int, int, tuple[int, int]]:
        """Return left and top of the crop in the scaled image (below 0 is padding), and the size of that image."""
        longer = max(width, height)
        scaled = max(1, round(width / longer * self.size)), max(1, round(height / longer * self.size))
        start = (self.size - self.crop_size) // 2
        left, top = (start - round((self.size - side) / 2) for side in scaled)
        return left, top, scaled


def to_rgb(image: Any) -> Image.Image:
    """Convert any image to 8-bit RGB: gray repeated, palette and CMYK converted, transparency on black, EXIF rotation
    applied.

    `gloria.depth.eight_bit` scales deeper pixels, in gray and color, without clipping; `gloria.dicom.read_dicom` reads
    DICOM. TIFF whose zero is white is inverted.

    Args:
        image: PIL image of any mode, path of a local file, open binary file, or array or tensor (H, W), (H, W, C) or
            (C, H, W) with C of 1, 3 or 4.

    Raises:
        TypeError: not an image.
        ValueError: a file that is not a readable image or has several frames or pages, an empty image, an impossible
            shape, a pixel that is not finite.
    """
    if isinstance(image, (str, os.PathLike, io.IOBase)) and is_dicom(image):
        values = read_dicom(image)
    elif isinstance(image, (str, os.PathLike, io.IOBase, Image.Image)):
        return _flatten(decoded(image))
    elif hasattr(image, "__array__"):
        values = np.asarray(image)
    else:
        raise TypeError(
            f"{type(image).__name__} is not an image; expected a PIL image, the path of a file, an array or a tensor"
        )
    return _flatten(Image.fromarray(eight_bit(_channels_last(values))))


def read_mask(mask: Any) -> np.ndarray:
    """Return a mask as (H, W) bool: True where it is brighter than half of its brightest pixel.

    Args:
        mask: any image that `to_rgb` takes, of values 0 and 1 too; a black one is an empty mask.

    Raises:
        TypeError, ValueError: as `to_rgb`.
    """
    values = np.asarray(to_rgb(mask).convert("L"))
    return values > values.max() / 2


def is_single_image(images: Any) -> bool:
    """Return whether this is a single image, not a sequence of them."""
    if isinstance(images, (str, os.PathLike, io.IOBase, Image.Image)):
        return True
    shape = getattr(images, "shape", None)
    return shape is not None and len(shape) < 4


def _flatten(image: Image.Image) -> Image.Image:
    if image.mode == "La":
        image = image.convert("LA")  # the only mode of gray with alpha that Pillow reads but does not convert further
    if image.has_transparency_data:
        image = image.convert("RGBA")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, image).convert("RGB")
    return image.convert("RGB")


def _channels_last(values: np.ndarray) -> np.ndarray:
    if values.ndim == 3 and values.shape[2] not in (1, 3, 4) and values.shape[0] in (1, 3, 4):
        values = values.transpose(1, 2, 0)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] not in (3, 4)) or 0 in values.shape:
        raise ValueError(
            f"the image has the shape {values.shape}; expected (H, W), (H, W, C) or (C, H, W) with C of 1, 3 or 4, "
            "and no side of 0"
        )
    return values
