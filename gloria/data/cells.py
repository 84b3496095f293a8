"""Turns the cells of a table into text, and recognizes missing values."""

import math
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any
from uuid import UUID

from gloria.messages import shown

# The texts that pandas.read_csv reads as a missing value, and NaT, which pandas writes for a missing time.
MISSING = frozenset([
    "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA", "NULL",
    "NaN", "NaT", "None", "n/a", "nan", "null",
])  # fmt: skip
# A float beyond this is not exact, so it cannot be an id.
_EXACT = 2**53
_FLOAT_OF_AN_ID = re.compile(r"(-?[0-9]+)\.0+")


def cell_text(value: Any) -> str:
    """Return a cell as text, without blanks around it.

    Null and NaN are "". A whole number has no decimal places, whatever its type. Bytes are text in UTF-8.

    Raises:
        ValueError: a list, an object, an infinity, or text that is not valid Unicode. The message continues the name of
            the column.
    """
    if value is None or (isinstance(value, (float, Decimal)) and math.isnan(value)):
        return ""
    if isinstance(value, bytes):
        try:
            return value.decode().strip()
        except UnicodeDecodeError:
            raise ValueError(f"holds bytes that are not UTF-8: {shown(value)}; expected text") from None
    if isinstance(value, str):
        if not is_unicode(value):
            raise ValueError(f"is {shown(value)}, which is not valid Unicode (a lone surrogate); expected text")
        return value.strip()
    if isinstance(value, (float, Decimal)):
        if math.isinf(value):
            raise ValueError(f"is {value}; expected text or a finite number")
        whole = int(value)
        return str(whole if value == whole and abs(whole) < _EXACT else value)
    if isinstance(value, (bool, int, UUID)):
        return str(value)
    kind = "an object" if isinstance(value, dict) else f"a {type(value).__name__}"
    raise ValueError(f"holds {kind}, {shown(value)}; expected text")


def identity(text: str) -> str:
    """Return an id as it was before it became a float: "10000032.0" is "10000032"."""
    found = _FLOAT_OF_AN_ID.fullmatch(text)
    return found[1] if found else text


def is_unicode(text: str) -> bool:
    """Return whether the text can be written as UTF-8: it has no lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def texts_of(values: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the cells of a record as text, and the words for missing values, whose cells become "".

    Raises:
        ValueError: a value that is not text, with the name of its column.
    """
    cells, missing = {}, {}
    for name, value in values.items():
        try:
            cells[name] = cell_text(value)
        except ValueError as error:
            raise ValueError(f"{name} {error}") from None
        if cells[name] in MISSING:
            missing[name], cells[name] = cells[name], ""
    return cells, missing
