"""A CSV of images and reports: rows with the line they stand on, what is wrong with them, and a split by patient."""

import csv
import hashlib
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from tqdm import tqdm

from gloria.images import to_rgb

REQUIRED = ("image", "report")
# The released code's datasets and the common hubs do not agree on what the held-out part is called.
TRAINING = ("train", "training")
VALIDATION = ("val", "valid", "validate", "validation", "dev")
TEST = ("test", "held_out", "heldout")


@dataclass(frozen=True)
class Row:
    """One image with its report.

    Attributes:
        line: number of the line in the file on which the row starts; the header is line 1.
        image: path of the image, absolute or relative to the working directory; None where the cell is empty.
        report: the report, without blanks around it.
        patient: who it belongs to, "" = unknown.
        split: "train", "validation" or "test" in one of its usual spellings, "" = not given.
        label: what counts as the same finding in retrieval (column "label", else "finding"), "" = not given.
        mask: path of a mask of the finding, which pictures outline; None = not given.
        fault: what is wrong with the line itself, "" = nothing.
    """

    line: int
    image: Path | None
    report: str
    patient: str = ""
    split: str = ""
    label: str = ""
    mask: Path | None = None
    fault: str = ""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with one row."""

    line: int
    what: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.what}"


def read_table(path: str | Path) -> list[Row]:
    """Reads a CSV with a header, UTF-8, fields quoted as spreadsheets do it (line breaks within quotes included).

    Args:
        path: the file. Columns: image (relative to the folder of the file, or absolute) and report; optional patient,
            split, label or finding, and mask. Others are ignored.

    Returns:
        All rows, bad ones included; see `find_problems`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no UTF-8, no CSV, a required column missing or named twice, no row.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected a CSV file with the columns image and report")
    # The module csv and not pandas: only it tells the line on which a row of several lines starts.
    reader = csv.reader(StringIO(_decoded(path), newline=""), strict=True)
    rows: list[Row] = []
    header: list[str] = []
    line = 1
    try:
        for cells in reader:
            if not header and cells:
                header = _checked_header(path, [cell.strip() for cell in cells])
            elif cells:
                rows.append(_row(path.parent, line, header, cells))
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{path}, line {line}: no valid CSV ({error}); check the quotes of that row") from error
    if not rows:
        raise ValueError(f"{path} has no row; expected a header with image and report, and a line for each image")
    return rows


def write_table(path: str | Path, rows: Iterable[Row]) -> None:
    """Writes rows as `read_table` reads them, with absolute paths, so that the file may lie anywhere."""
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "report", "patient", "split", "label", "mask"])
        for row in rows:
            image, mask = ("" if each is None else each.absolute() for each in (row.image, row.mask))
            writer.writerow([image, row.report, row.patient, row.split, row.label, mask])


def find_problems(rows: Sequence[Row], progress: bool = False) -> list[Problem]:
    """What is wrong with the rows: a broken line, no report, an image missing, unreadable, cut off or used before.

    Every image is decoded to its last pixel, since nothing less shows that a file is cut off. An image is used before
    if an earlier row has a file of the same bytes, under whatever name.

    Args:
        rows: as `read_table` gives them.
        progress: show a progress bar, on a terminal.

    Returns:
        The problems in the order of the lines; a row may have several.
    """
    problems: list[Problem] = []
    seen: dict[bytes, Row] = {}
    for row in tqdm(rows, desc="checking rows", unit="row", disable=None if progress else True, leave=False):
        if row.fault:
            problems.append(Problem(row.line, row.fault))
            continue
        if not row.report:
            problems.append(Problem(row.line, "the report is empty"))
        fault = _image_fault(row, seen)
        if fault:
            problems.append(Problem(row.line, fault))
    return problems


def split_rows(rows: Sequence[Row], held_out: float = 0.2, seed: int = 0) -> tuple[list[Row], list[Row]]:
    """Rows to train on and rows to evaluate on, with no patient in both.

    A split column decides where there is one: training rows, and validation rows (test rows where there is no
    validation). Otherwise patients are drawn. A row without a patient counts as a patient of its own.

    Args:
        rows: as `read_table` gives them.
        held_out: share of the patients to evaluate on, when they are drawn.
        seed: of the drawing; the same rows and seed give the same split.

    Returns:
        (training rows, held-out rows), each in the order of the file.

    Raises:
        ValueError: `held_out` outside (0, 1); fewer than two patients; a split column with unknown words, gaps, one
            side empty, or one patient on both sides.
    """
    if any(row.split for row in rows):
        return _named_split(rows)
    if not 0 < held_out < 1:
        raise ValueError(f"held_out is {held_out}; expected a share of the patients between 0 and 1, such as 0.2")
    patients = sorted({_patient(row) for row in rows})
    if len(patients) < 2:
        raise ValueError(f"there are {len(patients)} patients; expected two at least, to train on and to hold out")
    random.Random(seed).shuffle(patients)
    count = min(max(1, round(held_out * len(patients))), len(patients) - 1)
    chosen = set(patients[:count])
    return [row for row in rows if _patient(row) not in chosen], [row for row in rows if _patient(row) in chosen]


def _decoded(path: Path) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}, line {line}: no valid UTF-8 ({error.reason}); save the table as UTF-8") from error


def _checked_header(path: Path, header: list[str]) -> list[str]:
    for name in REQUIRED:
        if header.count(name) != 1:
            raise ValueError(
                f"{path} has the columns {header}; expected one named {name!r} (required: image and report; optional: "
                "patient, split, label or finding, mask)"
            )
    return header


def _row(folder: Path, line: int, header: list[str], cells: list[str]) -> Row:
    if len(cells) != len(header):
        fault = f"{len(cells)} fields where the header has {len(header)}; quote fields that hold commas"
        return Row(line, None, "", fault=fault)
    named = {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
    return Row(
        line=line,
        image=folder / named["image"] if named["image"] else None,
        report=named["report"],
        patient=named.get("patient", ""),
        split=named.get("split", ""),
        label=named.get("label", named.get("finding", "")),
        mask=folder / named["mask"] if named.get("mask") else None,
    )


def _image_fault(row: Row, seen: dict[bytes, Row]) -> str:
    """What is wrong with the image of a row, "" = nothing; `seen` takes the digests of the files met so far."""
    if row.image is None:
        return "the image is not named"
    if not row.image.is_file():
        return f"the image {row.image} does not exist"
    try:
        digest = hashlib.blake2b(row.image.read_bytes()).digest()
        to_rgb(row.image)
    except (OSError, ValueError) as error:
        return f"the image is unreadable: {error}"
    earlier = seen.setdefault(digest, row)
    if earlier is row:
        return ""
    if earlier.report == row.report:
        return f"duplicate of line {earlier.line}: the same image and report"
    return f"the image is that of line {earlier.line}, with another report"


def _patient(row: Row) -> tuple[str, int]:
    return (row.patient, 0) if row.patient else ("", row.line)


def _named_split(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    parts: dict[str, list[Row]] = {"train": [], "validation": [], "test": []}
    for row in rows:
        for part, names in zip(parts, (TRAINING, VALIDATION, TEST), strict=True):
            if row.split.lower() in names:
                parts[part].append(row)
                break
        else:
            raise ValueError(
                f"line {row.line}: the split is {row.split!r}; expected 'train', 'validation' or 'test' in every row, "
                "or no split column"
            )
    training, held_out = parts["train"], parts["validation"] or parts["test"]
    if not training or not held_out:
        raise ValueError(
            f"the split column gives {len(training)} rows to train on and {len(held_out)} to hold out; expected one of "
            "each at least"
        )
    of_training = {_patient(row): row for row in training}
    for row in parts["validation"] + parts["test"]:
        other = of_training.get(_patient(row))
        if other is not None:
            raise ValueError(
                f"patient {row.patient!r} is in the split {other.split!r} on line {other.line} and in {row.split!r} on "
                f"line {row.line}; put all rows of a patient in one split"
            )
    return training, held_out
