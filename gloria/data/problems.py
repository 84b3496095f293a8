"""Finds the problems of a table's rows, each with its line."""

from collections.abc import Sequence
from dataclasses import dataclass

from tqdm import tqdm

from gloria.data.image_checks import check_image, check_mask
from gloria.data.split import split_faults
from gloria.data.table import Row
from gloria.messages import plain


@dataclass(frozen=True)
class Problem:
    """Describes a fault of one row, or a warning about a row that can still be used."""

    line: int
    what: str
    unit: str = "line"
    bad: bool = True

    def __str__(self) -> str:
        return plain(f"{self.unit} {self.line}: {'' if self.bad else 'warning: '}{self.what}")


def find_problems(
    rows: Sequence[Row], progress: bool = False, need_reports: bool = True, all_columns: bool = False
) -> list[Problem]:
    """Find broken lines, missing reports, and images that are missing, unreadable, flat or used before.

    Every image is decoded to its last pixel: nothing less shows that a file is cut off. An image was used before if an
    earlier row has a file with the same bytes, under any name. A row whose image is nearly flat, or has meaningless
    DICOM elements, is not bad: its problem is a warning.

    Args:
        rows: rows of `read_table`.
        progress: show a progress bar, on a terminal.
        need_reports: a row without a report is bad. Set it to False for tables that only have labels.
        all_columns: check the columns split and mask too, which few commands use: a split that `split_rows` refuses, a
            mask that is missing or unreadable.

    Returns:
        The problems, by line; a row may have several.
    """
    problems: list[Problem] = []
    seen: dict[bytes, Row] = {}
    splits = split_faults([row for row in rows if not row.fault]) if all_columns else ()
    of_splits = {row.line: fault for row, fault in splits}
    for row in tqdm(rows, desc="checking rows", unit="row", disable=None if progress else True, leave=False):
        faults, odd = [row.fault], list[str]()
        if not row.fault:
            faults, odd = check_image(row, seen)
            if all_columns:
                faults += [check_mask(row), of_splits.get(row.line, "")]
            faults.insert(0, "" if row.report or not need_reports else _empty_report(row))
        problems += [Problem(row.line, fault, row.unit) for fault in faults if fault]
        problems += [Problem(row.line, each, row.unit, bad=False) for each in odd]
    return problems


def _empty_report(row: Row) -> str:
    word = row.missing.get("report")
    return "the report is empty" if word is None else f"the report is {word!r}, which stands for a missing value"
