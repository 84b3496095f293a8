"""Row, and how a table of images and reports is read and written."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path

from gloria.data.cells import identity
from gloria.data.formats import Record, read_records, unit_of, write_records
from gloria.messages import shown

REQUIRED = ("image", "report")
COLUMNS = ("image", "report", "patient", "split", "label", "labels", "boxes", "mask")
READ = (*COLUMNS, "finding")
FILES = ("image", "mask")

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Row:
    """Holds one image with its report.

    Attributes:
        line: number of the line on which the row starts; the header is line 1. In Parquet, number of the row.
        image: path of the image, absolute or relative to the working directory; None if the cell is empty.
        report: the report, without blanks around it.
        patient: patient of the image, "" = unknown.
        split: "train", "validation" or "test" in one of the usual spellings, "" = not given.
        label: finding that retrieval compares (column "label", else "finding"), "" = not given.
        mask: path of a mask of the finding, which pictures outline; None = not given.
        fault: what is wrong with the line, "" = nothing.
        labels: class labels as in CheXpert: 1 present, 0 absent, -1 uncertain, no entry for classes that are not
            mentioned. In a table: "Edema=1; Pneumonia=-1".
        boxes: boxes around findings: x and y of the upper left corner, width and height, in pixels of the image.
            In a table: "12 30 100 80; 5 5 10 20".
        unit: what `line` counts, "line" or "row".
        missing: words for missing values in the line, such as "nan", by column; their cells are empty.
    """

    line: int
    image: Path | None
    report: str
    patient: str = ""
    split: str = ""
    label: str = ""
    mask: Path | None = None
    fault: str = ""
    labels: Mapping[str, int] = field(default_factory=dict, hash=False)
    boxes: tuple[Box, ...] = ()
    unit: str = "line"
    missing: Mapping[str, str] = field(default_factory=dict, hash=False, compare=False)

    @property
    def where(self) -> str:
        """Name of the row in messages: "line 5", or "row 4" in a format without lines."""
        return f"{self.unit} {self.line}"


def read_table(path: str | Path, required: Sequence[str] = REQUIRED) -> list[Row]:
    """Read a table: CSV, TSV, JSON lines or Parquet, by its ending; see `gloria.data.formats.read_records`.

    Args:
        path: the file. Columns: image (relative to the folder of the file, or absolute) and report; optional patient,
            split, label or finding, labels, boxes, and mask. Others are ignored.
        required: which of image and report the table must have; the other may be missing and is then empty.

    Returns:
        All rows, bad ones included; see `gloria.data.find_problems`.

    Raises:
        FileNotFoundError: `path` does not exist.
        ValueError: a file that is not in its format, a missing required column, a column that appears twice, no row.
        ImportError: Parquet without pyarrow.
        OSError: images in Parquet that cannot be unpacked beside it.
    """
    path = Path(path)
    optional = [name for name in READ if name not in required]
    rows = [_row_of(path, record) for record in read_records(path, required, optional, FILES)]
    if not rows:
        raise ValueError(f"{path} has no row; expected a header with {' and '.join(required)}, and a line for each")
    return rows


def write_table(path: str | Path, rows: Iterable[Row]) -> None:
    """Write rows for `read_table`, with absolute paths, so that the file can be moved.

    Args:
        path: file whose ending is the format, as for `read_table`.
        rows: any number of rows.

    Raises:
        ValueError: another format; a text that is not valid Unicode.
        ImportError: Parquet without pyarrow.
        DiskFullError: no space is left.
    """
    write_records(path, COLUMNS, [_cells_of(row) for row in rows])


def _row_of(path: Path, record: Record) -> Row:
    if record.fault:
        return Row(record.line, None, "", fault=record.fault, unit=unit_of(path))
    cells = record.cells
    try:
        labels, boxes = _parse_labels(cells.get("labels", "")), _parse_boxes(cells.get("boxes", ""))
    except ValueError as error:
        return Row(record.line, None, "", fault=str(error), unit=unit_of(path))
    return Row(
        line=record.line,
        image=path.parent / cells["image"] if cells.get("image") else None,
        report=cells.get("report", ""),
        patient=identity(cells.get("patient", "")),
        split=cells.get("split", ""),
        label=identity(cells.get("label", cells.get("finding", ""))),
        mask=path.parent / cells["mask"] if cells.get("mask") else None,
        labels=labels,
        boxes=boxes,
        unit=unit_of(path),
        missing=record.missing,
    )


def _cells_of(row: Row) -> dict[str, str]:
    image, mask = ("" if each is None else str(each.absolute()) for each in (row.image, row.mask))
    return {
        "image": image,
        "report": row.report,
        "patient": row.patient,
        "split": row.split,
        "label": row.label,
        "labels": "; ".join(f"{name}={value}" for name, value in row.labels.items()),
        "boxes": "; ".join(" ".join(identity(str(value)) for value in box) for box in row.boxes),
        "mask": mask,
    }


def box_of(numbers: Iterable[str]) -> Box:
    """Return a box of four numbers: x and y from 0, width and height above 0, all finite.

    Raises:
        ValueError: anything else.
    """
    x, y, width, height = map(float, numbers)
    if not all(map(isfinite, (x, y, width, height))) or min(x, y) < 0 or min(width, height) <= 0:
        raise ValueError("a box lies at x and y from 0, with a width and height above 0")
    return x, y, width, height


def is_there(path: Path) -> bool:
    """Return whether the file exists; False for a name that no file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _parse_labels(text: str) -> dict[str, int]:
    labels = {}
    for part in filter(str.strip, text.split(";")):
        name, _, value = part.rpartition("=")
        if not name.strip() or value.strip() not in ("1", "0", "-1"):
            raise ValueError(
                f"labels holds {shown(part.strip())}; expected NAME=1, NAME=0 or NAME=-1, with ; between them"
            )
        labels[name.strip()] = int(value)
    return labels


def _parse_boxes(text: str) -> tuple[Box, ...]:
    boxes = []
    for part in filter(str.strip, text.split(";")):
        try:
            boxes.append(box_of(part.split()))
        except ValueError:
            raise ValueError(
                f"boxes holds {shown(part.strip())}; expected 'x y width height', finite, x and y from 0, width and "
                "height above 0, with ; between them"
            ) from None
    return tuple(boxes)
