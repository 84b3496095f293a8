"""Reads elements of a data set, which may be absent, empty, multi-valued or meaningless."""

import math
import warnings
from collections.abc import Sequence
from typing import Any


class DicomWarning(UserWarning):
    """An element is meaningless, and the image is shown without it."""


def warn(message: str) -> None:
    """Warn which element is ignored or filled in, and how the image is shown instead."""
    warnings.warn(message, DicomWarning, stacklevel=3)


def numbers(data: Any, keyword: str) -> list[float]:
    """Return the values of a numeric element, NaN for empty values; [] if the element is absent or unreadable.

    Warns:
        DicomWarning: the element does not hold numbers.
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
    """Return the first value of a numeric element, None if it is absent, empty or unreadable."""
    first = next(iter(numbers(data, keyword)), math.nan)
    return None if math.isnan(first) else first


def word(data: Any, keyword: str) -> str:
    """Return the first value of a text element, in upper case, without blanks around it; "" if absent."""
    value = data.get(keyword)
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = next(iter(value), "")
    return str("" if value is None else value).strip(" \0").upper()


def first_item(data: Any, keyword: str) -> Any:
    """Return the first item of a sequence, None if it is absent or empty."""
    return next(iter(data.get(keyword) or ()), None)
