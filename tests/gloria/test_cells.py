"""Cells: every value of every format as text, and one notion of what is missing."""

from decimal import Decimal
from uuid import UUID

import pytest

from gloria.data.cells import MISSING, cell_text, identity, texts_of


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (float("nan"), ""),
        (Decimal("nan"), ""),
        ("  Clear lungs.\n", "Clear lungs."),
        (b"Clear lungs. ", "Clear lungs."),
        (7, "7"),
        (True, "True"),
        (10000032.0, "10000032"),
        (-0.0, "0"),
        (2.5, "2.5"),
        (1e300, "1e+300"),
        (Decimal("10000032.00"), "10000032"),
        (Decimal("2.50"), "2.50"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    ],
)
def test_a_value_is_text(value, text):
    assert cell_text(value) == text


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (["Clear.", "No effusion."], r"holds a list, \['Clear\.', 'No effusion\.'\]; expected text"),
        ({"text": "Clear."}, r"holds an object, \{'text': 'Clear\.'\}; expected text"),
        (float("inf"), "is inf; expected text or a finite number"),
        (Decimal("-inf"), "is -Infinity; expected text or a finite number"),
        ("\ud800", r"is '\\ud800', which is not valid Unicode \(a lone surrogate\); expected text"),
        (b"\xff", r"holds bytes that are not UTF-8: b'\\xff'; expected text"),
    ],
)
def test_what_is_no_text_is_named(value, message):
    with pytest.raises(ValueError, match=f"^report {message}$"):
        texts_of({"image": "a.png", "report": value})


@pytest.mark.parametrize("word", sorted(MISSING))
def test_words_for_a_missing_value_are_missing(word):
    assert texts_of({"report": f" {word} ", "label": "Edema"}) == ({"report": "", "label": "Edema"}, {"report": word})


@pytest.mark.parametrize("text", ["None.", "nandrolone", "0", "Not applicable", "none"])
def test_other_words_are_text(text):
    assert texts_of({"report": text}) == ({"report": text}, {})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10000032.0", "10000032"),
        ("-1.00", "-1"),
        ("p10", "p10"),
        ("0012", "0012"),
        ("1.5", "1.5"),
        ("1.", "1."),
        ("", ""),
    ],
)
def test_ids_lose_what_a_float_added(text, expected):
    assert identity(text) == expected
