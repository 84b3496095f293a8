"""What is wrong with the rows of a table, each problem with the place of its row."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from tqdm import tqdm

from gloria.data.table import Row, is_there
from gloria.images import to_rgb
from gloria.messages import PATH, plain


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with one row."""

    line: int
    what: str
    unit: str = "line"

    def __str__(self) -> str:
        return plain(f"{self.unit} {self.line}: {self.what}")


def find_problems(rows: Sequence[Row], progress: bool = False, need_reports: bool = True) -> list[Problem]:
    """What is wrong with the rows: a broken line, no report, an image missing, unreadable, cut off or used before.

    Every image is decoded to its last pixel, since nothing less shows that a file is cut off. An image is used before
    if an earlier row has a file of the same bytes, under whatever name.

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
        faults = [row.fault]
        if not row.fault:
            faults = ["" if row.report or not need_reports else _empty_report(row), _image_fault(row, seen)]
        problems += [Problem(row.line, fault, row.unit) for fault in faults if fault]
    return problems


def _empty_report(row: Row) -> str:
    word = row.missing.get("report")
    return "the report is empty" if word is None else f"the report is {word!r}, which stands for a missing value"


def _image_fault(row: Row, seen: dict[bytes, Row]) -> str:
    """What is wrong with the image of a row, "" = nothing; `seen` takes the digests of the files met so far."""
    if row.image is None:
        return "the image is not named"
    if not is_there(row.image):
        return f"the image {plain(str(row.image), PATH)} does not exist"
    try:
        digest = hashlib.blake2b(row.image.read_bytes()).digest()
        to_rgb(row.image)
    except (OSError, ValueError) as error:
        return f"the image is unreadable: {error}"
    earlier = seen.setdefault(digest, row)
    if earlier is row:
        return ""
    if earlier.report == row.report:
        return f"duplicate of {earlier.where}: the same image and report"
    return f"the image is that of {earlier.where}, with another report"
