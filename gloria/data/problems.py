"""What is wrong with the rows of a table, each problem with the place of its row."""

from collections.abc import Sequence
from dataclasses import dataclass

from tqdm import tqdm

from gloria.data.image_checks import check_image
from gloria.data.table import Row
from gloria.messages import plain


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with one row, or that is odd about it though it is not bad."""

    line: int
    what: str
    unit: str = "line"
    bad: bool = True

    def __str__(self) -> str:
        return plain(f"{self.unit} {self.line}: {'' if self.bad else 'warning: '}{self.what}")


def find_problems(rows: Sequence[Row], progress: bool = False, need_reports: bool = True) -> list[Problem]:
    """Return what is wrong with the rows: a broken line, no report, an image missing, unreadable, flat or used before.

    Every image is decoded to its last pixel, since nothing less shows that a file is cut off. An image is used before
    if an earlier row has a file of the same bytes, under whatever name. A row whose image is nearly flat, or has DICOM
    elements without meaning, is not bad: its problem is a warning.

    Args:
        rows: as `read_table` gives them.
        progress: show a progress bar, on a terminal.
        need_reports: a row without a report is bad. Not for tables that only have labels.

    Returns:
        The problems in the order of the lines; a row may have several.
    """
    problems: list[Problem] = []
    seen: dict[bytes, Row] = {}
    for row in tqdm(rows, desc="checking rows", unit="row", disable=None if progress else True, leave=False):
        faults, odd = [row.fault], list[str]()
        if not row.fault:
            faults, odd = check_image(row, seen)
            faults.insert(0, "" if row.report or not need_reports else _empty_report(row))
        problems += [Problem(row.line, fault, row.unit) for fault in faults if fault]
        problems += [Problem(row.line, each, row.unit, bad=False) for each in odd]
    return problems


def _empty_report(row: Row) -> str:
    word = row.missing.get("report")
    return "the report is empty" if word is None else f"the report is {word!r}, which stands for a missing value"
