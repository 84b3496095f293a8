"""GloriaImageProcessor: a picture of any mode, depth and size to normalised square pixels, with PIL alone."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from transformers import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor

BIT_DEPTHS = (8, 10, 12, 14, 16)


class GloriaImageProcessor(BaseImageProcessor):
    """Resizes the longer side, pads to a square, crops the middle and normalises, as the released code does.

    The released code resizes to 256, crops 224 and lets the model enlarge that to 299. Here the same field of view is
    taken from the original at 299 at once, so that pixels are interpolated once: a longer side of 342 = 299 x 256 /
    224.

    Args:
        size: pixels of the longer side, and of the padded square. Default: `crop_size` x 256 / 224, rounded.
        crop_size: pixels of the side of the middle square that is kept. 299 gives 19 x 19 regions in stage 3 of a
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
        """Images to pixels.

        Args:
            images: one image or a sequence of them: PIL image, path of a local file, or array or tensor (H, W), (H, W,
                C) or (C, H, W) with C of 1, 3 or 4. See `to_rgb` for modes and depths.
            return_tensors: "pt", or "np" or None for an array.

        Returns:
            BatchFeature with pixel_values (B, 3, crop_size, crop_size) float32.

        Raises:
            TypeError, ValueError: no image; what `to_rgb` cannot read, and the message says which image of the batch.
        """
        batch = [images] if is_one(images) else list(images)
        if not batch:
            raise ValueError("images is empty; expected one image or more")
        pixels = []
        for position, image in enumerate(batch):
            try:
                pixels.append(self._pixels(to_rgb(image)))
            except TypeError as error:
                raise TypeError(f"images[{position}]: {error}") from error
            except ValueError as error:
                raise ValueError(f"images[{position}]: {error}") from error
        return BatchFeature({"pixel_values": np.stack(pixels)}, tensor_type=return_tensors)

    def _pixels(self, image: Image.Image) -> np.ndarray:
        square = ImageOps.pad(image, (self.size, self.size), Image.Resampling.BILINEAR, color=0)
        start = (self.size - self.crop_size) // 2
        cropped = square.crop((start, start, start + self.crop_size, start + self.crop_size))
        scaled = np.asarray(cropped, np.float32) / 255
        normalised = (scaled - np.asarray(self.image_mean, np.float32)) / np.asarray(self.image_std, np.float32)
        return normalised.transpose(2, 0, 1)


def to_rgb(image: Any) -> Image.Image:
    """Any image as 8-bit RGB: grey repeated, palette and CMYK converted, transparency on black, EXIF rotation applied.

    Deeper integers are scaled, not clipped: by the smallest depth of 8, 10, 12, 14 or 16 bits that holds the brightest
    pixel, because 12-bit radiographs usually come in 16-bit files. Floats within [0, 1] are scaled by 255. Anything
    else (negative, beyond 16 bits, floats beyond [0, 1], as raw detector values are) is stretched from its minimum to
    its maximum.

    Args:
        image: PIL image of any mode, path of a local file, or array or tensor (H, W), (H, W, C), (C, H, W), C of 1, 3
            or 4.

    Raises:
        TypeError: not an image.
        ValueError: a file that is no readable image, an empty image, an impossible shape, a pixel that is not finite.
    """
    if isinstance(image, (str, os.PathLike, Image.Image)):
        image = ImageOps.exif_transpose(_loaded(image))
        if image.mode != "F" and not image.mode.startswith("I"):
            return _flattened(image)
        values = np.asarray(image)
    elif hasattr(image, "__array__"):
        values = np.asarray(image)
    else:
        raise TypeError(
            f"{type(image).__name__} is no image; expected a PIL image, the path of a file, an array or a tensor"
        )
    return _flattened(Image.fromarray(_eight_bit(_channels_last(values))))


def is_one(images: Any) -> bool:
    """Whether this is a single image, not a sequence of them."""
    if isinstance(images, (str, os.PathLike, Image.Image)):
        return True
    shape = getattr(images, "shape", None)
    return shape is not None and len(shape) < 4


def _loaded(source: str | os.PathLike[str] | Image.Image) -> Image.Image:
    """The image with all its pixels read, since only reading them shows that a file is cut off."""
    try:
        image = source if isinstance(source, Image.Image) else Image.open(source)
        image.load()
        return image
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        name = getattr(source, "filename", None) or source
        raise ValueError(f"{name} cannot be read as an image ({error}); check that it exists and is whole") from error


def _flattened(image: Image.Image) -> Image.Image:
    if 0 in image.size:
        raise ValueError(f"the image is empty: {image.width} x {image.height} pixels")
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


def _eight_bit(values: np.ndarray) -> np.ndarray:
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values)
    if values.dtype == bool:
        return values.astype(np.uint8) * 255
    integral = np.issubdtype(values.dtype, np.integer)
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("the image has pixels that are not finite; replace NaN and infinities first")
    low, high = values.min(), values.max()
    if integral and low >= 0 and high < 2 ** BIT_DEPTHS[-1]:
        low, high = 0, next(2**depth - 1 for depth in BIT_DEPTHS if high < 2**depth)
    elif not integral and low >= 0 and high <= 1:
        low, high = 0, 1
    elif low == high:
        high = low + 1  # nothing to stretch: black, like the padding
    return np.rint((values - low) * (255 / (high - low))).astype(np.uint8)
