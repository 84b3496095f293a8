"""Imported, the result of every data set's reader, and helpers to read the files of a data set."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gloria.data.formats import Record, read_records
from gloria.data.table import Row, is_there
from gloria.messages import counted, shown

# The labels of CheXpert, which MIMIC-CXR-JPG gives too, in the order of the files.
CLASSES = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
KINDS = 5  # most kinds of lost sections in a summary


@dataclass
class Imported:
    """Holds the rows of a data set, and what was left out.

    Attributes:
        rows: rows, whose `line` is a line of the file that lists the images.
        left_out: names of images or studies without a row, by reason.
        lost: sections with text that no report takes, by study.
    """

    rows: list[Row] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    lost: dict[str, list[str]] = field(default_factory=dict)

    def add(self, row: Row, name: str) -> None:
        """Add a row if its image exists; otherwise note the image's name in the data set."""
        if row.image is not None and is_there(row.image):
            self.rows.append(row)
        else:
            self.leave_out("the image is not there", name)

    def leave_out(self, reason: str, name: str) -> None:
        """Note an image or study that gets no row."""
        self.left_out.setdefault(reason, []).append(name)

    def summary(self) -> list[str]:
        """Return lines that count the rows, what was left out for each reason (with the first), and lost sections."""
        bare = sum(not row.report for row in self.rows)
        lines = [f"{counted(len(self.rows), 'row')}, {bare} of them without a report"]
        lines += [f"left out {len(names)}: {reason} (first: {names[0]})" for reason, names in self.left_out.items()]
        if self.lost:
            counts = Counter(name for names in self.lost.values() for name in set(names)).most_common(KINDS)
            kinds = ", ".join(f"{name} {count}" for name, count in counts)
            lines.append(
                f"{counted(len(self.lost), 'report')} lost a section that had text (first: "
                f"{next(iter(self.lost))}); most often: {kinds}"
            )
        return lines


def listed(root: Path, name: str, columns: Sequence[str], optional: Sequence[str] = ()) -> Iterator[Record]:
    """Read columns of a file of the data set, gzipped or not; optional columns only if they exist.

    Raises:
        FileNotFoundError: the file is not in `root`.
        ValueError: another kind of file; an unreadable record.
    """
    path = found(root, name)
    if path is None:
        raise FileNotFoundError(f"{root} holds no {name} (nor {name}.gz); expected the folder that holds it")
    return _valid_records(path, columns, optional)


def found(root: Path, name: str) -> Path | None:
    """Return the path of a file of the data set, gzipped or not; None if it does not exist."""
    return next((path for path in (root / name, root / f"{name}.gz") if path.is_file()), None)


def class_labels(cells: Mapping[str, str]) -> dict[str, int]:
    """Return the labels in the columns of `CLASSES`: 1.0, 0.0, -1.0, or no label for a class that is not mentioned.

    Raises:
        ValueError: another value.
    """
    labels = {}
    for name in CLASSES:
        text = cells.get(name, "")
        if text:
            if text not in ("1", "1.0", "0", "0.0", "-1", "-1.0"):
                raise ValueError(f"{name} is {shown(text)}; expected 1.0, 0.0, -1.0 or nothing")
            labels[name] = round(float(text))
    return labels


def _valid_records(path: Path, columns: Sequence[str], optional: Sequence[str]) -> Iterator[Record]:
    for record in read_records(path, columns, optional):
        if record.fault:
            raise ValueError(f"{path}, line {record.line}: {record.fault}; download the file again")
        yield record
