"""Reads DICOM radiographs by the display pipeline of the standard (PS3.3 C.7.6.3, C.11.1, C.11.2)."""

import os
from io import IOBase
from typing import Any

import numpy as np

SUFFIXES = (".dcm", ".dicom")
DECODERS = "pip install pylibjpeg pylibjpeg-openjpeg pylibjpeg-libjpeg pyjpegls"


def is_dicom(source: str | os.PathLike[str] | Any) -> bool:
    """Return whether a file has DICOM's name or preamble: any 128 bytes, then "DICM".

    Args:
        source: path, or open binary file, whose position is kept.
    """
    if isinstance(source, (str, os.PathLike)):
        if str(source).lower().endswith(SUFFIXES):
            return True
        try:
            with open(source, "rb") as file:
                return file.read(132)[128:] == b"DICM"
        except OSError:
            return False
    start = source.tell()
    magic = source.read(132)[128:]
    source.seek(start)
    return bool(magic == b"DICM")


def read_dicom(source: str | os.PathLike[str] | IOBase) -> np.ndarray:
    """Show a DICOM image of one frame.

    Gray goes through the modality LUT or rescale, then through the first usable VOI LUT or window; without these it is
    stretched from its darkest to its brightest pixel. MONOCHROME1, in which high values are dark, is inverted. Padding
    does not affect the range and becomes black. Color is converted to RGB. docs/data.md explains each element, and what
    happens if it is absent, empty or meaningless.

    Args:
        source: path, or open binary file. Compressed pixels need a decoder for their transfer syntax: pydicom has RLE,
            Pillow has JPEG (8 bits) and JPEG 2000.

    Returns:
        (H, W) float64 in [0, 1]; of color images (H, W, 3) uint8.

    Raises:
        ImportError: pydicom is not installed.
        ValueError: unreadable DICOM, several frames, no pixels, or no decoder; the message says which.

    Warns:
        DicomWarning: a meaningless element is ignored; the message does not name the file, so that Python shows it once
            for all such files.
    """
    name = source if isinstance(source, (str, os.PathLike)) else getattr(source, "name", source)
    try:
        import pydicom
    except ImportError as error:
        raise ImportError(f"{name} is DICOM, which pydicom reads; pip install pydicom") from error
    from gloria.dicom.color import show_color
    from gloria.dicom.gray import show_gray
    from gloria.dicom.stored import complete, stored_pixels

    try:
        # Files without the preamble count by their name; reading shows whether they are DICOM.
        data = pydicom.dcmread(source, force=True)
        complete(data)
        stored, padded = stored_pixels(data)
        if str(data.PhotometricInterpretation).startswith("MONOCHROME"):
            return show_gray(data, stored, padded)
        return show_color(data, stored)
    except Exception as error:  # pydicom raises any kind of error on a damaged file
        raise ValueError(f"{name} cannot be read as DICOM ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    """Return the message of an error, with the fix if a package is missing."""
    text = " ".join(str(error).split()) or type(error).__name__
    lacking = "missing dependencies" in text or "Pillow does not support" in text or "Pillow cannot decode" in text
    return f"{text}; install a decoder: {DECODERS}" if lacking else text
