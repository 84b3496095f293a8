"""Shows gray: applies modality LUT or rescale, then VOI LUT or window; inverts MONOCHROME1; makes padding black."""

import math
from itertools import zip_longest

import numpy as np
from pydicom import Dataset
from pydicom.pixels import apply_windowing

from gloria.dicom.elements import number, numbers, warn, word
from gloria.dicom.tables import Table, read_table

FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")


def show_gray(data: Dataset, stored: np.ndarray, padded: np.ndarray) -> np.ndarray:
    """Show stored gray pixels.

    Args:
        data: the pixels' data set, complete.
        stored: (H, W), of any real dtype.
        padded: (H, W) bool, True for padding; not all True.

    Returns:
        (H, W) float64 in [0, 1].

    Warns:
        DicomWarning: for each meaningless element, which is ignored.
    """
    if padded.any():
        stored = np.where(padded, stored[~padded].min(), stored)  # does not affect the range, and becomes black below
    values, step = _apply_modality(data, stored)
    shown = _apply_voi(data, values, step)
    if shown is None:
        shown = _stretch(values)
    inverted = data.PhotometricInterpretation == "MONOCHROME1"
    if word(data, "PresentationLUTShape") == ("IDENTITY" if inverted else "INVERSE"):
        warn(
            f"PresentationLUTShape is {data.PresentationLUTShape}, which contradicts "
            f"{data.PhotometricInterpretation}; the image is shown by the latter"
        )
    if inverted:
        shown = 1 - shown
    shown[padded] = 0
    return shown


def _apply_modality(data: Dataset, stored: np.ndarray) -> tuple[np.ndarray, float]:
    """Apply the modality LUT or the rescale; return float64 values, and the step between neighboring values."""
    integral = stored.dtype.kind != "f"
    table = _first_usable_table(data, "ModalityLUTSequence") if integral else None
    if table:
        return table(stored).astype(np.float64), 1
    values = stored.astype(np.float64)
    slope, intercept = number(data, "RescaleSlope"), number(data, "RescaleIntercept")
    if slope is None and intercept is None:
        return values, float(integral)
    slope, intercept = 1 if slope is None else slope, 0 if intercept is None else intercept
    with np.errstate(all="ignore"):
        rescaled = values * slope + intercept
    if not slope or not np.isfinite(rescaled).all():
        warn(f"RescaleSlope is {slope:g} and RescaleIntercept {intercept:g}; the image is shown without them")
        return values, float(integral)
    return rescaled, abs(slope) * integral


def _apply_voi(data: Dataset, values: np.ndarray, step: float) -> np.ndarray | None:
    """Apply the VOI LUT or the first usable window; return values in [0, 1], None if there is neither."""
    table = _first_usable_table(data, "VOILUTSequence")
    if table:
        return table(values) / (2**table.bits - 1)
    function = word(data, "VOILUTFunction") or "LINEAR"
    if function not in FUNCTIONS:
        warn(f"VOILUTFunction is {function}; expected one of {FUNCTIONS}, read as LINEAR")
        function = "LINEAR"
    windows = zip_longest(numbers(data, "WindowCenter"), numbers(data, "WindowWidth"), fillvalue=math.nan)
    for center, width in windows:
        usable = math.isfinite(center) and math.isfinite(width) and width > 0
        # A linear window loses one unit, the step between integers; values of finer steps need the exact window.
        if usable and function == "LINEAR" and width <= 1 and step < width:
            return _apply_window(values, center, width, "LINEAR_EXACT")
        if usable and (function != "LINEAR" or width >= 1):
            return _apply_window(values, center, width, function)
        # Centers differ from file to file: naming one that is not at fault would repeat the warning for each file.
        fault, value = ("WindowWidth", width) if math.isfinite(center) else ("WindowCenter", center)
        warn(f"{fault} is {'no number' if math.isnan(value) else f'{value:g}'}; the image is shown without that window")
    return None


def _apply_window(values: np.ndarray, center: float, width: float, function: str) -> np.ndarray:
    window = Dataset()
    # One unsigned bit, so that the window's range of output is 0 to 1.
    window.PhotometricInterpretation, window.PixelRepresentation, window.BitsStored = "MONOCHROME2", 0, 1
    window.add_new("WindowCenter", "FD", center)
    window.add_new("WindowWidth", "FD", width)
    window.VOILUTFunction = function
    with np.errstate(over="ignore"):  # exponentials far from the center are rightly infinite
        return apply_windowing(values, window)


def _stretch(values: np.ndarray) -> np.ndarray:
    """Stretch values from the darkest to the brightest to [0, 1]; equal values become black."""
    values = values / 2  # since the difference of two doubles may overflow
    low, high = values.min(), values.max()
    values -= low
    if high > low:
        values /= high - low
    return values


def _first_usable_table(data: Dataset, keyword: str) -> Table | None:
    """Return the first usable table of a sequence, None if there is none."""
    for item in data.get(keyword) or ():
        try:
            return read_table(data, item.get("LUTDescriptor"), item.get("LUTData"))
        except (TypeError, ValueError) as error:
            warn(f"a table of {keyword} is unusable ({error}); the image is shown without it")
    return None
