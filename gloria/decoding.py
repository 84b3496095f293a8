"""Decodes image files and PIL images to 8 bits, and keeps what Pillow drops: low bytes of 16-bit color, white zeros."""

import io
import os
import re
import sys
from typing import Any

import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin

from gloria.depth import eight_bit

BITS, PHOTOMETRIC, ORIENTATION, SAMPLES, PLANES = 258, 262, 274, 277, 284  # tags of TIFF and EXIF
WHITE_IS_ZERO, BLACK_IS_ZERO = 0, 1
DEEP_GRAYS = ("I", "F")  # first letters of the modes with more than 8 bits
DEEP_COLORS = re.compile(r"(LA|RGB|RGBA|RGBa|RGBX);16([BLN])")  # raw modes: channels, order of the bytes

# Pillow opens some deep grays only where zero is black; `decoded` inverts what it opens, as Pillow inverts 8 bits.
for (_order, _photometric, *_rest), _modes in list(TiffImagePlugin.OPEN_INFO.items()):
    if _photometric == BLACK_IS_ZERO and _modes[0].startswith(DEEP_GRAYS):
        TiffImagePlugin.OPEN_INFO.setdefault((_order, WHITE_IS_ZERO, *_rest), _modes)  # type: ignore[arg-type]


def decoded(source: str | os.PathLike[str] | io.IOBase | Image.Image) -> Image.Image:
    """Decode an image of one frame to its last pixel: nothing less shows that a file is cut off.

    Channels of more than 8 bits are scaled by `gloria.depth.eight_bit`, in gray and in color, with or without alpha.
    TIFF whose zero is white is inverted. EXIF rotation is applied.

    Args:
        source: path, open binary file, or PIL image; a PIL image that is already loaded is used as it is.

    Returns:
        An image of 8 bits or less a channel.

    Raises:
        ValueError: an unreadable image, several frames or pages, an empty image, a pixel that is not finite.
    """
    image = source if isinstance(source, Image.Image) else None
    try:
        if image is None:
            image = Image.open(source)  # type: ignore[arg-type]
        # A JPEG with pictures attached, as telephones write it (MPO), is the same picture without them.
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        if frames > 1:
            raise _UnsupportedImageError(
                f"{_name_of(source)} has {frames} frames or pages; save the one to use as a file of its own"
            )
        deep = _deep_color(image)
        if deep is None:
            image.load()
    except Exception as error:  # decoders raise any kind of error on a damaged file
        if image is not None and image is not source:
            image.close()
        if isinstance(error, _UnsupportedImageError):
            raise
        raise ValueError(
            f"{_name_of(source)} cannot be read as an image ({error}); check that it exists and is whole"
        ) from error
    if deep is not None:
        if image is not source:
            image.close()
        return deep
    if 0 in image.size:
        raise ValueError(f"the image is empty: {image.width} x {image.height} pixels")
    white_is_zero = hasattr(image, "tag_v2") and not _tag(image, PHOTOMETRIC)
    image = ImageOps.exif_transpose(image)
    if not image.mode.startswith(DEEP_GRAYS):
        return image
    values = np.asarray(image)
    shown = eight_bit(values)
    if white_is_zero:
        shown = 255 - shown
    if "transparency" in image.info:
        shown[values == image.info["transparency"]] = 0
    return Image.fromarray(shown)


class _UnsupportedImageError(ValueError):
    """A file is intact but not supported; the message is complete."""


def _name_of(source: Any) -> Any:
    if isinstance(source, (str, os.PathLike)):
        return source
    return getattr(source, "filename", None) or getattr(source, "name", None) or source


def _deep_color(image: Any) -> Image.Image | None:
    """Decode both bytes of each 16-bit color channel, of which Pillow keeps the high one; None for other images.

    The file is decoded twice, for the high and for the low bytes, by Pillow's raw modes of either byte order. Gray
    with alpha has only one such mode, so its four bytes are decoded as a pixel of RGBA.
    """
    if not getattr(image, "tile", None):
        return None  # loaded before: what was dropped is lost
    if _tag(image, PLANES) == 2 and _tag(image, SAMPLES) in (None, 1):
        # Pillow cuts the raw mode of a single plane declared as separate; with this tag fixed, it reads the tags again.
        image.tag_v2[PLANES] = 1
        image._setup()
    elif _tag(image, PLANES) == 2 and 16 in (_tag(image, BITS) or ()):
        raise _UnsupportedImageError(
            f"{_name_of(image)} holds 16-bit colors in separate planes; save it with one plane for all"
        )
    args = image.tile[0].args
    kind = DEEP_COLORS.fullmatch(str(args if isinstance(args, str) else args[0]))
    if kind is None:
        return None
    channels, order = kind.groups()
    if order == "N":
        order = sys.byteorder[0].upper()
    image.fp.seek(0)  # Pillow finds its place again when it decodes
    file = image.fp.read()
    if channels == "LA":
        decoded = _decode_as(file, image.format, "RGBA")
        values = np.repeat(np.asarray(decoded).view(">u2" if order == "B" else "<u2"), (3, 1), axis=2)
    else:
        raw = channels.replace("a", "A")
        decoded = _decode_as(file, image.format, f"{raw};16{order}")
        low = _decode_as(file, image.format, f"{raw};16{'L' if order == 'B' else 'B'}")
        values = np.asarray(decoded).astype(np.uint16) * 256 + np.asarray(low)
    if channels == "RGBa":
        values = values[..., :3]  # already multiplied by alpha: as it looks on black
    if channels == "RGB" and "transparency" in decoded.info:
        seen = (values != np.asarray(decoded.info["transparency"])).any(axis=2)
        values = np.dstack([values, seen * np.uint16(65535)])
    picture = Image.fromarray(eight_bit(values))
    picture.getexif()[ORIENTATION] = decoded.getexif().get(ORIENTATION, 1)
    return ImageOps.exif_transpose(picture)


def _tag(image: Image.Image, number: int) -> Any:
    return getattr(image, "tag_v2", {}).get(number)


def _decode_as(file: bytes, format: str, raw: str) -> Image.Image:
    """Decode the file by another raw mode with the same number of bytes."""
    image: Any = Image.open(io.BytesIO(file), formats=[format])
    image.tile = [
        tile._replace(args=raw if isinstance(tile.args, str) else (raw, *tile.args[1:])) for tile in image.tile
    ]
    image.load()
    return image
