"""Gray pixels: modality LUT or rescale, VOI LUT or window, the negative of MONOCHROME1, padding black."""

import math
from itertools import zip_longest

import numpy as np
from pydicom import Dataset
from pydicom.pixels import apply_windowing

from gloria.dicom.elements import number, numbers, warn, word
from gloria.dicom.tables import Table, read_table

FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")


def show_gray(data: Dataset, stored: np.ndarray, padded: np.ndarray) -> np.ndarray:
    """Show stored pixels.

    Args:
        data: their data set, complete.
        stored: (H, W), of any real dtype.
        padded: (H, W) bool, not all of them.

    Returns:
        (H, W) float64 in [0, 1].

    Warns:
        DicomWarning: for each element that has no meaning and is passed over.
    """
    if padded.any():
        stored = np.where(padded, stored[~padded].min(), stored)  # takes no part, and is black in the end
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
    """Return what the modality LUT or the rescale makes of stored pixels, as float64, and the step between two
    values.
    """
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
    """Return the values as the VOI LUT or the first usable window shows them, in [0, 1]; None where there is none."""
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
        # A linear window loses a unit, which means a step between integers: values of finer steps do without.
        if usable and function == "LINEAR" and width <= 1 and step < width:
            return _apply_window(values, center, width, "LINEAR_EXACT")
        if usable and (function != "LINEAR" or width >= 1):
            return _apply_window(values, center, width, function)
        # Centers differ from file to file: unless it is at fault, it would repeat the warning for each.
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
    with np.errstate(over="ignore"):  # of exponentials far from the center, which are the right infinities
        return apply_windowing(values, window)


def _stretch(values: np.ndarray) -> np.ndarray:
    """Stretch values from the darkest to the brightest, in [0, 1]; black where they are equal."""
    values = values / 2  # since the difference of two doubles may be beyond them
    low, high = values.min(), values.max()
    values -= low
    if high > low:
        values /= high - low
    return values


def _first_usable_table(data: Dataset, keyword: str) -> Table | None:
    """Return the first usable table of a sequence, None where there is none."""
    for item in data.get(keyword) or ():
        try:
            return read_table(data, item.get("LUTDescriptor"), item.get("LUTData"))
        except (TypeError, ValueError) as error:
            warn(f"a table of {keyword} is unusable ({error}); the image is shown without it")
    return None
