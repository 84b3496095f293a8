"""Sections of reports: by MIMIC-CXR's rules for headers, with nothing that is seen lost without a word."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from public_texts import MIMIC_REPORT

from gloria.data.sections import SECTIONS, choose_section, lost_sections, sections_of


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
        ("IMPRESSION: No change.\nFINDINGS AND IMPRESSION: All in one.", "both", "All in one."),
        ("TITLE\n\nOne.\n\nTwo.", "both", "One. Two."),
        ("Only this.", "impression", "Only this."),
        ("HISTORY: Cough.\n \n One.\n \n Two.\n", "both", "One. Two."),
        ("HISTORY: Cough.", "both", ""),
        ("At 5:30 AM:\nHeader of no kind.\n\n  Last\nparagraph. \n\n", "findings", "Last paragraph."),
        ("", "both", ""),
        ("FINDINGS: One.\nTwo", "whole", "FINDINGS: One. Two"),
    ],
)
def test_chosen_sections(text, section, expected):
    assert choose_section(text, section) == expected


@pytest.mark.parametrize(
    "header",
    [
        "PA AND LATERAL VIEWS OF THE CHEST",
        "FRONTAL AND LATERAL CHEST RADIOGRAPHS",
        "PORTABLE CHEST",
        "CHEST, TWO VIEWS",
        "AP CHEST, 5:30 A.M., ___",
        "CHEST (PA AND LAT)",
        "FRONTAL UPRIGHT PORTABLE",
        "LEFT RIBS",
        "BONE WINDOWS OF THE CHEST",
        "PERTINENT FINDINGS",
    ],
)
def test_views_and_the_chest_are_findings(header):
    text = f" FINAL REPORT\n HISTORY:  Cough.\n\n {header}:  Left effusion.\n\n IMPRESSION:  As above.\n"
    assert sections_of(text) == {"history": "Cough.", "findings": "Left effusion.", "impression": "As above."}
    assert lost_sections(text) == []


@pytest.mark.parametrize(
    ("spelt", "section"),
    [
        *(
            (each, "impression")
            for each in ("IMPRESON", "IMPRESSON", "IMPRSSION", "IMOPRESSION", "IMPRESSOIN", "MPRESSION")
        ),
        *((each, "impression") for each in ("IMPERSSION", "IMPESSION", "IMPRESION", "CONCLUSON", "SUMMARY")),
        *(
            (each, "findings")
            for each in ("FINDNGS", "FINDINS", "FINDGINGS", "FINDINDGS", "FINIDNGS", "FINDNINGS", "FINDING")
        ),
        *((each, "comparison") for each in ("COMPARSION", "COMPARISION", "COMPARRISON", "COMPARISONS")),
        *((each, "indication") for each in ("NDICATION", "IDICATION", "REASON FOR EXAM", "REASON FOR CHEST X-RAY")),
        *((each, "history") for each in ("CLINICAL HISTORY", "Clinical Information")),
        *((each, "recommendations") for each in ("RECOMMENDATION(S)", "RECOMENDATION")),
    ],
)
def test_misspelled_headers_are_folded(spelt, section):
    assert sections_of(f"{spelt}: Words.")[section] == "Words."


@pytest.mark.parametrize(
    "header", ["LUNGS", "COMPRESSION FRACTURE", "DEPRESSION", "MEDICATION", "OCCLUSION", "LINES AND TUBES", "OTHER"]
)
def test_other_headers_in_capitals_belong_to_their_section(header):
    text = f"FINDINGS: \n\n {header}: Words.\n\n IMPRESSION: Pneumonia."
    assert sections_of(text) == {"findings": f"{header}: Words.", "impression": "Pneumonia."}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # A view within the findings, and after them within the impression, is a header there.
        ("FINDINGS: A.\nPORTABLE CHEST: B.\nIMPRESSION: C.", {"findings": "A. PORTABLE CHEST: B.", "impression": "C."}),
        ("FINDINGS: A.\nIMPRESSION: C.\nCHEST TUBES: D.", {"findings": "A.", "impression": "C. CHEST TUBES: D."}),
        ("IMPRESSION:\nCHEST: C.", {"impression": "CHEST: C."}),
        ("IMPRESSION: C.\nCHEST: A.", {"impression": "C.", "findings": "A."}),
        # The title of a report is no section, nor is what was taken out of it.
        ("CHEST, PA LATERAL:\n\nINDICATION: B.\n", {"indication": "B."}),
        ("CHEST: ___\nIMPRESSION: C.", {"impression": "C."}),
        ("FINDINGS: A.\nOTHER FINDINGS: B.", {"findings": "A. OTHER FINDINGS: B."}),
        ("FINDINGS: At 5:30: A.\r\nIMPRESSION: C.", {"findings": "At 5:30: A.", "impression": "C."}),
    ],
)
def test_where_sections_begin(text, expected):
    assert sections_of(text) == expected


@pytest.mark.parametrize(
    ("text", "section", "lost"),
    [
        (MIMIC_REPORT, "both", []),
        (MIMIC_REPORT, "findings", []),
        ("WET READ: A.\nFINDINGS: B.\nADDENDUM: C.", "both", ["wet read", "addendum"]),
        ("WET READ: A.\nFINDINGS: B.\nADDENDUM: C.", "whole", []),
        ("FINDINGS: A.\nIMPRESSION: B.\nFINDINGS: C.", "both", ["findings"]),
        ("FINDINGS: A.\nIMPRESSION: B.\nFINDINGS: C.", "impression", []),
        ("FINDINGS AND IMPRESSION: A.\nFINDINGS: C.", "findings", ["findings"]),
        ("FINDINGS AND IMPRESSION: A.\nFINDINGS: C.", "both", []),
        ("FINAL REPORT\nLUNGS: A.\nIMPRESSION: B.", "both", ["lungs"]),
        ("HISTORY: Cough.\nNOTIFICATION: By telephone.\nIMPRESSION: B.", "both", []),
        ("WET READ: A.\n\nB.", "both", []),
    ],
)
def test_lost_sections(text, section, lost):
    assert lost_sections(text, section) == lost


def test_unknown_sections_are_named():
    with pytest.raises(
        ValueError, match=r"section is 'all'; expected one of 'findings', 'impression', 'both', 'whole'"
    ):
        choose_section("a", "all")


@given(
    st.text()
    | st.lists(st.sampled_from(["FINDINGS:", "CHEST:", "A.", "LUNGS: B.", "", "IMPRESSION: C."])).map("\n".join)
)
def test_no_report_is_too_odd(text):
    for section in SECTIONS:
        chosen = choose_section(text, section)
        assert chosen == " ".join(chosen.split())
        lost_sections(text, section)
