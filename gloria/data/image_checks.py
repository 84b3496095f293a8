"""Checks the image and the mask of a row: faults, and warnings about images that can still be used."""

import hashlib
import warnings
from bisect import bisect
from itertools import accumulate

from PIL import Image

from gloria.data.table import Row, is_there
from gloria.dicom import DicomWarning
from gloria.images import read_mask, to_rgb
from gloria.messages import PATH, plain

# In real radiographs, 98 % of the pixels span at least 100 gray levels; 12 bits read as 16 leave 16 levels.
FEW_LEVELS, SHARE_ASIDE = 16, 0.01


def check_image(row: Row, seen: dict[bytes, Row]) -> tuple[list[str], list[str]]:
    """Decode the image of a row to its last pixel, and check it.

    Args:
        row: a row whose line has no fault.
        seen: digests of the earlier files; the digest of this file is added.

    Returns:
        Faults: an image that is missing, unreadable, used before, or of one gray level. Warnings: nearly one gray
        level, or meaningless DICOM elements.
    """
    if row.image is None:
        return ["the image is not named"], []
    if not is_there(row.image):
        return [f"the image {plain(str(row.image), PATH)} does not exist"], []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", DicomWarning)
            digest = hashlib.blake2b(row.image.read_bytes()).digest()
            picture = to_rgb(row.image)
    except (OSError, ValueError) as error:
        return [f"the image is unreadable: {error}"], []
    odd = list(dict.fromkeys(str(each.message) for each in caught if each.category is DicomWarning))
    for each in caught:
        if each.category is not DicomWarning:
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno, source=each.source)
    faults = [_used_before(row, seen.setdefault(digest, row))]
    if picture.getcolors(1):  # None if there are more colors
        faults.append(f"the image has one gray level only, {picture.convert('L').getpixel((0, 0))} of 255")
    else:
        odd.append(_few_levels(picture))
    return list(filter(None, faults)), list(filter(None, odd))


def check_mask(row: Row) -> str:
    """Decode the mask of a row, and return its fault: "" if it can be used, or if there is none."""
    if row.mask is None:
        return ""
    if not is_there(row.mask):
        return f"the mask {plain(str(row.mask), PATH)} does not exist"
    try:
        read_mask(row.mask)
    except (OSError, ValueError) as error:
        return f"the mask is unreadable: {error}"
    return ""


def _used_before(row: Row, earlier: Row) -> str:
    if earlier is row:
        return ""
    if earlier.report == row.report:
        return f"duplicate of {earlier.where}: the same image and report"
    return f"the image is that of {earlier.where}, with another report"


def _few_levels(picture: Image.Image) -> str:
    below = list(accumulate(picture.convert("L").histogram()))
    low, high = (bisect(below, share * below[-1]) for share in (SHARE_ASIDE, 1 - SHARE_ASIDE))
    if high - low >= FEW_LEVELS:
        return ""
    return f"the image is nearly of one gray level: 98 % of its pixels lie in levels {low} to {high} of 255"
