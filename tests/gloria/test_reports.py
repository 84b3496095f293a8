"""Report texts: sections by header, sentences as the released code reads them, and ids that ignore case."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from public_texts import MIMIC_REPORT

from gloria.data.reports import choose_section, sections_of, sentences_of, text_id, text_to_read


def test_sections_have_their_headers():
    sections = sections_of(MIMIC_REPORT)
    assert list(sections) == ["examination", "indication", "technique", "comparison", "findings", "impression"]
    assert sections["comparison"] == "None."
    assert sections["impression"] == "1. No acute cardiopulmonary process. 2. Clear lungs."


@pytest.mark.parametrize(
    ("text", "section", "expected"),
    [
        ("FINDINGS AND IMPRESSION:\nAll in one.", "both", "All in one."),
        ("FINDINGS AND IMPRESSION:\nAll in one.", "impression", "All in one."),
        ("FINDINGS: One.\nIMPRESSION: Two.", "both", "One. Two."),
        ("FINDINGS: One.\nIMPRESSION: One.", "both", "One."),
        ("Findings: One.\n Impression : Two.", "impression", "Two."),
        ("FINDINGS: One.\nCONCLUSION: Two.", "impression", "Two."),
        ("FINDINGS: One.", "impression", ""),
        ("IMPRESSION: Early.\n FINAL REPORT\n IMPRESSION: Late.", "impression", "Late."),
        ("IMPRESSION:\nFINDINGS: One.", "both", "One."),
        ("At 5:30 AM:\nHeader of no kind.\n\n  Last\nparagraph. \n\n", "findings", "Last paragraph."),
        ("", "both", ""),
        ("FINDINGS: One.\nTwo", "whole", "FINDINGS: One. Two"),
    ],
)
def test_chosen_sections(text, section, expected):
    assert choose_section(text, section) == expected


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


@pytest.mark.parametrize("call", [lambda: choose_section("a", "all"), lambda: text_to_read("a", "all")])
def test_unknown_choices_are_named(call):
    with pytest.raises(ValueError, match=r"is 'all'; expected one of '"):
        call()


@given(st.text())
def test_no_report_is_too_odd(text):
    for section in ("findings", "impression", "both", "whole"):
        assert "\n" not in choose_section(text, section)
    assert all(len(sentence.split()) > 1 for sentence in sentences_of(text))
    assert 0 <= text_id(text) < 2**62


def test_ids_tell_texts_apart_but_for_case_and_blanks():
    assert text_id("Clear  LUNGS.\n") == text_id("clear lungs.")
    assert text_id("Clear lungs.") != text_id("Clear lung.")
