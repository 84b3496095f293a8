"""Free-text reports: their sections, their sentences, and which text of them a training step reads."""

import hashlib
import re
from collections.abc import Sequence
from typing import Literal, get_args

import torch

Section = Literal["findings", "impression", "both", "whole"]
SECTIONS: tuple[Section, ...] = get_args(Section)
Text = Literal["report", "sentences", "sentence"]
TEXTS: tuple[Text, ...] = get_args(Text)

# A header stands at the start of a line before a colon, in capitals; the two that matter in any letters.
_HEADER = re.compile(
    r"^[ \t]*([A-Z][A-Z0-9 ,/&()-]*[A-Z)]|(?i:findings?|impressions?|conclusions?))[ \t]*:", re.MULTILINE
)
# The spellings of the two sections that MIMIC-CXR's reports use; a header may name both.
_FINDINGS = re.compile(r"\bFINDINGS?\b")
_IMPRESSION = re.compile(r"\b(IMPRESSIONS?|CONCLUSIONS?|SUMMARY)\b")
_NUMBERED = re.compile(r"(?<![\w.])[0-9]+\.(?![0-9])")
_WORD = re.compile(r"[a-z0-9]+(?:\.[0-9]+)*")


def sections_of(text: str) -> dict[str, str]:
    """The sections of a report by their headers, in lower case, without line breaks.

    What comes before the first header is left out, if there is a header at all. Of two sections of one name, the later
    one is kept, as in MIMIC-CXR's own code.

    Returns:
        Section by header: "findings" and "impression" under these names however they are spelt, others as they are; a
        section that is both is there twice.
    """
    sections = {}
    found = list(_HEADER.finditer(text))
    ends = [*(header.start() for header in found[1:]), len(text)]
    for header, end in zip(found, ends, strict=False):
        body = " ".join(text[header.end() : end].split())
        name = " ".join(header[1].upper().split())
        of_both = {"findings": _FINDINGS.search(name), "impression": _IMPRESSION.search(name)}
        for each in [part for part, spelt in of_both.items() if spelt] or [name.lower()]:
            if body:
                sections[each] = body
    return sections


def choose_section(text: str, section: Section = "both") -> str:
    """The text of a report that says what is seen.

    Args:
        text: the report, with line breaks and headers.
        section: "findings", "impression", "both" (in this order; what is the same in both once), or "whole".

    Returns:
        The section without line breaks. Where a report has neither section, its last paragraph, which is where such
        reports say it; "" where it has the other one only.

    Raises:
        ValueError: another section.
    """
    if section not in SECTIONS:
        raise ValueError(f"section is {section!r}; expected one of {', '.join(map(repr, SECTIONS))}")
    if section == "whole":
        return " ".join(text.split())
    sections = sections_of(text)
    wanted = ("findings", "impression") if section == "both" else (section,)
    if "findings" in sections or "impression" in sections:
        return " ".join(dict.fromkeys(sections[name] for name in wanted if name in sections))
    paragraphs = [part for part in re.split(r"\n[ \t]*\n", text) if part.strip()]
    return " ".join(paragraphs[-1].split()) if paragraphs else ""


def sentences_of(report: str) -> list[str]:
    """The sentences of a report as the released GLoRIA reads them: lower case, no punctuation, two words or more.

    Sentences end at a full stop, and before a number in a list ("1. ..."); whatever is no letter from a to z and no
    digit parts words. The released code also cuts at decimal points, which breaks "2.5 cm" in two; this does not. It
    takes "___", which stands for removed names in MIMIC-CXR, for a word; this leaves it out.
    """
    parts = (part for item in _NUMBERED.split(report) for part in re.split(r"\.(?![0-9])", item))
    return [" ".join(words) for part in parts if len(words := _WORD.findall(part.lower())) > 1]


def text_to_read(report: str, text: Text) -> str:
    """What a training step reads of a report.

    Args:
        report: of a row.
        text: "report", as it is; "sentences", all of `sentences_of`, which is the released code's full report; or
            "sentence", one of them, drawn anew at each reading by torch's generator, which is the released default. A
            report without a sentence is read as it is.

    Raises:
        ValueError: another text.
    """
    if text not in TEXTS:
        raise ValueError(f"text is {text!r}; expected one of {', '.join(map(repr, TEXTS))}")
    sentences: Sequence[str] = [] if text == "report" else sentences_of(report)
    if not sentences:
        return report
    return " ".join(sentences) if text == "sentences" else sentences[int(torch.randint(len(sentences), ()))]


def text_id(text: str) -> int:
    """A number that is the same for texts which are equal but for case and blanks: 0 to 2^62."""
    digest = hashlib.blake2b(" ".join(text.casefold().split()).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 2
