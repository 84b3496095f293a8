"""DICOM radiographs as a viewer shows them: rescaled, windowed, and bright where it is dense."""

import os
from io import IOBase
from typing import Any

import numpy as np

SUFFIXES = (".dcm", ".dicom")
DECODERS = "pip install pylibjpeg pylibjpeg-openjpeg pylibjpeg-libjpeg pyjpegls"


def is_dicom(source: str | os.PathLike[str] | Any) -> bool:
    """Whether a file is named as DICOM, or starts as such: 128 bytes of anything, then "DICM".

    Args:
        source: path, or open binary file, which stays where it is.
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
    """The pixels of a DICOM image of one frame.

    The modality LUT (or rescale) and the first VOI LUT (or window) are applied; with the latter, pixels are stretched
    from the darkest to the brightest, without it from 0 to what the stored bits hold, where they are unsigned.
    MONOCHROME1, in which high values are dark, is inverted.

    Args:
        source: path, or open binary file. Compressed pixels need a decoder for their transfer syntax; pydicom comes
            with RLE, Pillow decodes JPEG (8 bits) and JPEG 2000.

    Returns:
        (H, W) float64 in [0, 1]; of colour images (H, W, 3) uint8.

    Raises:
        ImportError: pydicom is not installed.
        ValueError: no readable DICOM, several frames, no pixels, no decoder for them; the message says which.
    """
    name = source if isinstance(source, (str, os.PathLike)) else getattr(source, "name", source)
    try:
        import pydicom
        from pydicom.pixels import apply_modality_lut, apply_voi_lut
    except ImportError as error:
        raise ImportError(f"{name} is DICOM, which pydicom reads; pip install pydicom") from error
    try:
        # Files without the preamble are told by their name; whether they are DICOM shows when they are read.
        data = pydicom.dcmread(source, force=True)
        if "PixelData" not in data:
            raise ValueError("it holds no pixels")
        if int(data.get("NumberOfFrames") or 1) > 1:
            raise ValueError(f"it has {data.NumberOfFrames} frames; split it into images of one frame")
        stored = data.pixel_array
        if stored.ndim == 3:
            return np.ascontiguousarray(stored)
        windowed = "VOILUTSequence" in data or "WindowCenter" in data
        values = np.asarray(apply_voi_lut(apply_modality_lut(stored, data), data), np.float64)
        bits, signed = int(data.BitsStored), bool(data.PixelRepresentation)
        inverted = data.PhotometricInterpretation == "MONOCHROME1"
    except Exception as error:  # pydicom raises whatever it stumbles over in a damaged file
        raise ValueError(f"{name} cannot be read as DICOM ({_reason(error)})") from error
    full = not windowed and not signed and values.min() >= 0 and values.max() < 2**bits
    low, high = (0.0, 2.0**bits - 1) if full else (values.min(), values.max())
    scaled = (values - low) / (high - low) if high > low else np.zeros_like(values)
    return 1 - scaled if inverted else scaled


def _reason(error: Exception) -> str:
    """What went wrong, with the fix where that is a package."""
    text = " ".join(str(error).split()) or type(error).__name__
    return f"{text}; install a decoder: {DECODERS}" if "missing dependencies" in text else text
