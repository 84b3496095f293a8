"""Report texts: sentences as the released code reads them, and ids that ignore case."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gloria.data.reports import sentences_of, text_id, text_to_read


def test_sentences_are_those_of_the_released_code():
    report = "1. No pneumothorax.  2. Small LEFT effusion, unchanged\nin size. Stable. Nodule of 2.5 cm; ___ was told."
    assert sentences_of(report) == [
        "no pneumothorax",
        "small left effusion unchanged in size",
        "nodule of 2.5 cm was told",
    ]


def test_what_a_step_reads():
    report = "Clear lungs. Normal heart. None."
    assert text_to_read(report, "report") == report
    assert text_to_read(report, "sentences") == "clear lungs normal heart"
    assert text_to_read("Normal.", "sentence") == "Normal."
    torch.manual_seed(0)
    drawn = [text_to_read(report, "sentence") for _ in range(20)]
    assert set(drawn) == {"clear lungs", "normal heart"}
    torch.manual_seed(0)
    assert drawn == [text_to_read(report, "sentence") for _ in range(20)]


def test_a_sentence_that_denies_is_drawn_only_where_there_is_no_other():
    report = "No effusion. Large nodule. The heart is not enlarged. Mild edema."
    torch.manual_seed(0)
    assert {text_to_read(report, "affirmed") for _ in range(20)} == {"large nodule", "mild edema"}
    assert {text_to_read("No effusion. Clear lungs.", "affirmed") for _ in range(20)} == {"no effusion", "clear lungs"}
    assert text_to_read("Normal.", "affirmed") == "Normal."


def test_unknown_choices_are_named():
    with pytest.raises(
        ValueError, match=r"text is 'all'; expected one of 'report', 'sentences', 'sentence', 'affirmed'"
    ):
        text_to_read("a", "all")


@given(st.text())
def test_no_report_is_too_odd(text):
    assert all(len(sentence.split()) > 1 for sentence in sentences_of(text))
    assert 0 <= text_id(text) < 2**62


def test_ids_tell_texts_apart_but_for_case_and_blanks():
    assert text_id("Clear  LUNGS.\n") == text_id("clear lungs.")
    assert text_id("Clear lungs.") != text_id("Clear lung.")
