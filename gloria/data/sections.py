"""Splits a free-text report into sections by their headers, and chooses those that describe the images."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import lru_cache
from typing import Literal, get_args

Section = Literal["findings", "impression", "both", "whole"]
SECTIONS: tuple[Section, ...] = get_args(Section)
OF_BOTH = ("findings", "impression")

# Names of headers, by section. Misspelled names are matched by similarity, not listed.
_NAMES = {
    "findings": ("findings", "finding"),
    "impression": ("impression", "impressions", "conclusion", "conclusions", "summary"),
    "comparison": ("comparison", "comparisons", "comparison exam", "comparison film", "reference exam"),
    "indication": ("indication", "indications", "clinical indication", "reason", "reason for exam"),
    "history": ("history", "clinical history", "patient history", "clinical information", "clinical data"),
    "examination": ("examination", "exam", "type of examination", "type of exam", "study", "procedure"),
    "technique": ("technique",),
    "date": ("date",),
    "notification": ("notification", "notifications"),
    "recommendations": ("recommendations", "recommendation", "recommendation(s)"),
    "addendum": ("addendum", "addenda"),
    "wet read": ("wet read", "wetread"),
    "comment": ("comment", "comments"),
}
_SECTION_OF = {name: section for section, names in _NAMES.items() for name in names}
# These words name the section anywhere in a header: "FINDINGS AND IMPRESSION", "PERTINENT HISTORY".
_KEYWORDS = (*OF_BOTH, "conclusion", "history", "comparison", "addendum", "indication", "reason", "technique")
# These sections do not describe the images of this report.
_CONTEXT = (
    "preamble", "comparison", "indication", "history", "examination", "technique", "date", "notification",
    "recommendations",
)  # fmt: skip
# Least similarity of a misspelled name: "FINIDNGS" has 0.875, and "COMPRESSION", which is not an impression, 0.857.
_LIKENESS = 0.87

# A header in capitals, at the start of a line, may hold a time before its colon; a known name may be in any case.
_CAPITALS = re.compile(r"[ \t]*([A-Z](?:[A-Z0-9 _.,/&()'-]|:(?=[0-9]))*):(?=\s|$)")
_KNOWN = re.compile(rf"[ \t]*({'|'.join(map(re.escape, sorted(_SECTION_OF, key=len, reverse=True)))})[ \t]*:", re.I)
_VIEW = re.compile(r"\b(chest|portable|ribs?|radiographs?|views?|frontal|lateral|bone window|upright|pa and lat)\b")


@dataclass
class _Part:
    """Holds a section of the report; a section that is findings and impression has both names."""

    names: tuple[str, ...]
    lines: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.lines).split())

    @property
    def says_something(self) -> bool:
        return any(map(str.isalpha, self.text))


def sections_of(text: str) -> dict[str, str]:
    """Return the sections of a report by their headers, without line breaks.

    The rules are those of MIMIC-CXR's own code: a header in capitals that names views or the chest starts the findings;
    a misspelled name counts as the most similar one; of two sections with the same name the later one is kept. One rule
    differs: other headers in capitals ("LUNGS:"), and views named within the findings, start no section and stay in the
    current one. Sections without letters, and the text before the first header, are left out.

    Returns:
        Section by name: "findings", "impression", "comparison", "indication", "history", "examination", "technique",
        "date", "notification", "recommendations", "addendum", "wet read", "comment". A section that is findings and
        impression appears twice.
    """
    return {name: part.text for part in _parts_with_text(text) for name in part.names if name != "preamble"}


def choose_section(text: str, section: Section = "both") -> str:
    """Return the part of a report that describes the images.

    Args:
        text: the report, with line breaks and headers.
        section: "findings", "impression", "both" (in this order; once if they are equal), or "whole".

    Returns:
        The section without line breaks. If a report has neither section: its last section without the first paragraph,
        as in MIMIC-CXR's own code, or its only paragraph if it has no header. If it has only the other section: "".

    Raises:
        ValueError: another section.
    """
    if section not in SECTIONS:
        raise ValueError(f"section is {section!r}; expected one of {', '.join(map(repr, SECTIONS))}")
    if section == "whole":
        return " ".join(text.split())
    sections = sections_of(text)
    if any(name in sections for name in OF_BOTH):
        return " ".join(dict.fromkeys(sections[name] for name in _names_of(section) if name in sections))
    last = [*_all_parts(text)][-1]
    paragraphs = [part for part in re.split(r"\n[ \t]*\n", "\n".join(last.lines)) if part.strip()]
    if len(paragraphs) > 1 or last.names != ("preamble",):
        del paragraphs[:1]
    return " ".join(" ".join(paragraphs).split())


def lost_sections(text: str, section: Section = "both") -> list[str]:
    """Return the names of sections that describe the images, but that `choose_section` leaves out.

    Lost are an earlier section of the same name, an addendum, a wet read, and a header in capitals before the findings
    ("LUNGS:"). Sections that were not asked for, and sections before the description such as history and technique, are
    not lost.
    """
    if section == "whole":
        return []
    lost: list[str] = []
    parts = _parts_with_text(text)
    described = any(name in part.names for part in parts for name in OF_BOTH)
    for number, part in enumerate(parts):
        later = {name for other in parts[number + 1 :] for name in other.names}
        asked = set(part.names) & set(_names_of(section))
        if part.names[0] in _CONTEXT:
            headers = (_CAPITALS.match(line) for line in part.lines)
            lost += [header[1].strip().lower() for header in headers if header and described]
        elif asked <= later if asked else part.names[0] not in OF_BOTH and (described or later):
            lost.append(part.names[0])
    return lost


def _names_of(section: Section) -> tuple[str, ...]:
    return OF_BOTH if section == "both" else (section,)


def _parts_with_text(text: str) -> list[_Part]:
    """Return the sections with text, in their order, and the text before the first header."""
    return [part for part in _all_parts(text) if part.says_something]


def _all_parts(text: str) -> Iterator[_Part]:
    part, has_findings = _Part(("preamble",)), False
    for line in text.splitlines():
        header = _KNOWN.match(line) or _CAPITALS.match(line)
        names, is_name = _sections_of_header(" ".join(header[1].lower().split())) if header else ((), False)
        # A view, or "OTHER FINDINGS", inside the description does not start a section.
        within = set(names) <= set(part.names) or (
            part.names == ("impression",) and names == ("findings",) and (has_findings or not part.says_something)
        )
        if header and names and not (within and not is_name):
            yield part
            has_findings = has_findings or ("findings" in part.names and part.says_something)
            part = _Part(names, [line[header.end() :]])
        else:
            part.lines.append(line)
    yield part


@lru_cache(maxsize=100_000)
def _sections_of_header(header: str) -> tuple[tuple[str, ...], bool]:
    """Return the sections that a lower-case header starts, if any, and whether the header is exactly their name."""
    like = get_close_matches(header, _SECTION_OF, 1, _LIKENESS)
    if like:
        return (_SECTION_OF[like[0]],), True
    words = (get_close_matches(word, _KEYWORDS, 1, _LIKENESS) for word in re.findall(r"[a-z]+", header))
    named = {_SECTION_OF[word[0]] for word in words if word}
    if named.issuperset(OF_BOTH):
        return OF_BOTH, True
    for section in _NAMES:
        if section in named:
            return (section,), False
    return (("findings",), False) if _VIEW.search(header) else ((), False)
