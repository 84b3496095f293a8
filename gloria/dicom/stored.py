"""Reads stored pixels: completes their description, decodes them, drops unused bits, and finds padding."""

import numpy as np
from pydicom import Dataset
from pydicom.pixels import pixel_array
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
    JPEGLSTransferSyntaxes,
    RLELossless,
)

from gloria.dicom.elements import first_item, number, warn, word

PIXELS = {"PixelData": "", "FloatPixelData": "Float", "DoubleFloatPixelData": "DoubleFloat"}  # prefix of the padding's
GRAYS = ("MONOCHROME1", "MONOCHROME2")
COLORS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
PALETTE = "PALETTE COLOR"
# An enhanced image of one frame keeps the elements for display in the items of these sequences.
FRAME_GROUPS = ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence")
FRAME_MACROS = ("PixelValueTransformationSequence", "FrameVOILUTSequence")


def complete(data: Dataset) -> None:
    """Fill in missing elements of the pixels' description if they can only mean one thing.

    Raises:
        ValueError: no pixels, several frames, or colors that contradict the number of samples or cannot be shown.

    Warns:
        DicomWarning: for each element that is filled in or replaced.
    """
    if not any(keyword in data for keyword in PIXELS):
        raise ValueError("it holds no pixels")
    frames = number(data, "NumberOfFrames")
    if frames is not None and frames > 1:
        raise ValueError(f"it has {frames:.0f} frames; save the one to use as a file of its own")
    if frames != 1:
        data.NumberOfFrames = 1
    _copy_frame_groups(data)
    if not data.file_meta.get("TransferSyntaxUID"):
        implicit, little = data.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    _complete_colors(data)
    if "PixelData" in data:
        _complete_bits(data)


def _copy_frame_groups(data: Dataset) -> None:
    for groups in FRAME_GROUPS:
        for macro in FRAME_MACROS:
            for element in first_item(first_item(data, groups) or {}, macro) or ():
                if element.tag not in data or data[element.tag].is_empty:
                    data.add(element)


def _complete_colors(data: Dataset) -> None:
    photometric = word(data, "PhotometricInterpretation")
    samples = number(data, "SamplesPerPixel")
    if samples is None:
        samples = 3 if photometric in COLORS else 1
        warn(f"SamplesPerPixel is absent; read as {samples}")
    if samples not in (1, 3):
        raise ValueError(f"SamplesPerPixel is {samples:g}; expected 1 or 3")
    if samples == 1 and photometric not in (*GRAYS, PALETTE):
        warn(f"PhotometricInterpretation is {photometric!r}, with one sample a pixel; shown as MONOCHROME2")
        photometric = "MONOCHROME2"
    if samples == 3 and not photometric:
        warn("PhotometricInterpretation is absent, with three samples a pixel; shown as RGB")
        photometric = "RGB"
    if samples == 3 and photometric not in COLORS:
        raise ValueError(
            f"PhotometricInterpretation is {photometric!r}, with three samples a pixel; expected one of {COLORS}"
        )
    if samples == 3 and number(data, "PlanarConfiguration") is None:
        data.PlanarConfiguration = 0
    data.SamplesPerPixel, data.PhotometricInterpretation = int(samples), photometric


def _complete_bits(data: Dataset) -> None:
    if number(data, "BitsStored") is None and number(data, "BitsAllocated") is not None:
        data.BitsStored = data.BitsAllocated
        warn(f"BitsStored is absent; read as {data.BitsStored}, as BitsAllocated")
    colored = data.PhotometricInterpretation in COLORS
    signed = number(data, "PixelRepresentation")
    if signed is None or (colored and signed == 1):
        data.PixelRepresentation = 0
        warn(f"PixelRepresentation is {'1, in color' if signed else 'absent'}; read as 0, unsigned")


def stored_pixels(data: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Decode the pixels of a complete data set.

    Returns:
        The stored pixels, (H, W), or (H, W, 3) as RGB; and which pixels are padding, (H, W) bool. Float pixels that are
        not finite are padding too.

    Raises:
        Exception: of any kind, from pydicom: a contradiction, pixels that are cut off, or no decoder.
    """
    if data.SamplesPerPixel == 3:
        raw = pixel_array(data, index=0, allow_excess_frames=False)
        return raw, np.zeros(raw.shape[:2], bool)
    raw = pixel_array(data, index=0, allow_excess_frames=False, correct_unused_bits=False)
    if raw.dtype.kind == "f":
        padded = _is_padding(data, raw) | ~np.isfinite(raw)
        if (~np.isfinite(raw)).all():
            raise ValueError("it has no pixel that is finite")
        stored = raw
    else:
        stored = _without_unused_bits(data, raw)
        # Padding may be a value outside the stored bits, and unused bits may hold an overlay: both are compared.
        padded = _is_padding(data, raw) | _is_padding(data, stored)
    if padded.all():
        warn("all pixels lie in the range of PixelPaddingValue; the image is shown without it")
        padded = ~np.isfinite(raw)
    return stored, padded


def _without_unused_bits(data: Dataset, raw: np.ndarray) -> np.ndarray:
    """Return the BitsStored bits up to HighBit, with the sign extended; drop the rest."""
    syntax: UID = data.file_meta.TransferSyntaxUID
    if syntax in (*JPEG2000TransferSyntaxes, *JPEGLSTransferSyntaxes):
        return raw  # pydicom has extended the sign, by the precision of the compressed pixels
    bits, allocated = int(data.BitsStored), 8 * raw.dtype.itemsize
    high = number(data, "HighBit")
    if high is None or (syntax.is_encapsulated and syntax != RLELossless):
        high = bits - 1  # JPEG has no place for other bits
    if not bits - 1 <= high < allocated:
        warn(f"HighBit is {high:g}, with {bits} of {allocated} bits stored; read as {bits - 1}")
        high = bits - 1
    native = raw.astype(raw.dtype.newbyteorder("="))
    return (native << (allocated - 1 - int(high))) >> (allocated - bits)


def _is_padding(data: Dataset, values: np.ndarray) -> np.ndarray:
    """Return which values equal PixelPaddingValue, or lie between it and PixelPaddingRangeLimit."""
    prefix = next(prefix for keyword, prefix in PIXELS.items() if keyword in data)
    value = number(data, f"{prefix}PixelPaddingValue")
    if value is None:
        return np.zeros(values.shape, bool)
    limit = number(data, f"{prefix}PixelPaddingRangeLimit")
    ends = [_wrap_into_range(values.dtype, each) for each in (value, value if limit is None else limit)]
    return (values >= min(ends)) & (values <= max(ends))


def _wrap_into_range(dtype: np.dtype, value: float) -> float:
    """Return a padding value in the range of the pixels: files disagree on whether the element is signed."""
    if dtype.kind == "f":
        return value
    span = 2.0 ** (8 * dtype.itemsize)
    least = np.iinfo(dtype).min
    return (value - least) % span + least if -span / 2 <= value < span else value
