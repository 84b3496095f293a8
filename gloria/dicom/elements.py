"""Elements of a data set as they may really be: absent, empty, of several values, or of no meaning."""

import math
import warnings
from collections.abc import Sequence
from typing import Any


class DicomWarning(UserWarning):
    """An element has no meaning, and the image is shown without it."""


def warn(message: str) -> None:
    """Say which element is passed over or filled in, and how the image is shown instead."""
    warnings.warn(message, DicomWarning, stacklevel=3)


def numbers(data: Any, keyword: str) -> list[float]:
    """Return the values of a numeric element; NaN for an empty one among others, [] where there is none or it is
    unreadable.

    Warns:
        DicomWarning: it holds something else than numbers.
    """
    try:
        value = data.get(keyword)
        if value is None or value == "":
            return []
        values = list(value) if isinstance(value, Sequence) and not isinstance(value, (str, bytes)) else [value]
        return [math.nan if each is None or each == "" else float(each) for each in values]
    except (TypeError, ValueError, OverflowError):
        warn(f"{keyword} holds no number; the image is shown without it")
        return []


def number(data: Any, keyword: str) -> float | None:
    """Return the first value of a numeric element, None where it is absent, empty, or unreadable."""
    first = next(iter(numbers(data, keyword)), math.nan)
    return None if math.isnan(first) else first


def word(data: Any, keyword: str) -> str:
    """Return the first value of a text element, in upper case and without blanks around it; "" where there is none."""
    value = data.get(keyword)
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = next(iter(value), "")
    return str("" if value is None else value).strip(" \0").upper()


def first_item(data: Any, keyword: str) -> Any:
    """Return the first item of a sequence, None where it is absent or empty."""
    return next(iter(data.get(keyword) or ()), None)
