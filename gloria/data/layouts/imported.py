"""What every reader of a data set gives, and how it reads the files that the data set comes with."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gloria.data.formats import Record, read_records
from gloria.data.table import Row

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


@dataclass
class Imported:
    """The rows of a data set.

    Attributes:
        rows: their `line` is that of the file which lists the images.
        left_out: names of images or studies that became no row, by reason.
    """

    rows: list[Row] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)

    def leave_out(self, reason: str, name: str) -> None:
        """Notes one that becomes no row."""
        self.left_out.setdefault(reason, []).append(name)

    def summary(self) -> list[str]:
        """A line for the rows and one for each reason, with the first that was left out."""
        bare = sum(not row.report for row in self.rows)
        lines = [f"{len(self.rows)} rows, {bare} of them without a report"]
        return lines + [
            f"left out {len(names)}: {reason} (first: {names[0]})" for reason, names in self.left_out.items()
        ]


def listed(root: Path, name: str, columns: Sequence[str]) -> Iterator[Record]:
    """The records of a file of the data set, packed (.gz) or not.

    Raises:
        FileNotFoundError: it is not in `root`.
        ValueError: it is no such file; a record that cannot be read.
    """
    path = found(root, name)
    if path is None:
        raise FileNotFoundError(f"{root} holds no {name} (nor {name}.gz); expected the folder that holds it")
    return _whole(path, columns)


def found(root: Path, name: str) -> Path | None:
    """Path of a file of the data set, packed (.gz) or not, None where there is none."""
    return next((path for path in (root / name, root / f"{name}.gz") if path.is_file()), None)


def class_labels(cells: Mapping[str, str]) -> dict[str, int]:
    """The labels in the columns of `CLASSES`: 1.0, 0.0, -1.0, or nothing where a class is not mentioned.

    Raises:
        ValueError: another value.
    """
    labels = {}
    for name in CLASSES:
        text = cells.get(name, "")
        if text:
            if text not in ("1", "1.0", "0", "0.0", "-1", "-1.0"):
                raise ValueError(f"{name} is {text!r}; expected 1.0, 0.0, -1.0 or nothing")
            labels[name] = round(float(text))
    return labels


def _whole(path: Path, columns: Sequence[str]) -> Iterator[Record]:
    for record in read_records(path, columns):
        if record.fault:
            raise ValueError(f"{path}, line {record.line}: {record.fault}; download the file again")
        yield record
