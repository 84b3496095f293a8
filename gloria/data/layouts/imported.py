"""What every reader of a data set gives, and how it reads the files that the data set comes with."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gloria.data.formats import Record, read_records
from gloria.data.table import Row, is_there
from gloria.messages import shown

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
KINDS = 5  # of lost sections that a summary names


@dataclass
class Imported:
    """The rows of a data set.

    Attributes:
        rows: their `line` is that of the file which lists the images.
        left_out: names of images or studies that became no row, by reason.
        lost: sections with text that are in no report, by the study that has them.
    """

    rows: list[Row] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    lost: dict[str, list[str]] = field(default_factory=dict)

    def add(self, row: Row, name: str) -> None:
        """Add a row whose image is there, and note the image that is not, by its name in the data set."""
        if row.image is not None and is_there(row.image):
            self.rows.append(row)
        else:
            self.leave_out("the image is not there", name)

    def leave_out(self, reason: str, name: str) -> None:
        """Note one that becomes no row."""
        self.left_out.setdefault(reason, []).append(name)

    def summary(self) -> list[str]:
        """Return a line for the rows, for each reason with the first that was left out, and for sections that were
        lost.
        """
        bare = sum(not row.report for row in self.rows)
        lines = [f"{len(self.rows)} rows, {bare} of them without a report"]
        lines += [f"left out {len(names)}: {reason} (first: {names[0]})" for reason, names in self.left_out.items()]
        if self.lost:
            counts = Counter(name for names in self.lost.values() for name in set(names)).most_common(KINDS)
            kinds = ", ".join(f"{name} {count}" for name, count in counts)
            lines.append(
                f"{len(self.lost)} reports lost a section that had text (first: {next(iter(self.lost))}); most often: "
                f"{kinds}"
            )
        return lines


def listed(root: Path, name: str, columns: Sequence[str], optional: Sequence[str] = ()) -> Iterator[Record]:
    """The columns of a file of the data set, packed (.gz) or not; the optional ones where they are there.

    Raises:
        FileNotFoundError: it is not in `root`.
        ValueError: it is no such file; a record that cannot be read.
    """
    path = found(root, name)
    if path is None:
        raise FileNotFoundError(f"{root} holds no {name} (nor {name}.gz); expected the folder that holds it")
    return _valid_records(path, columns, optional)


def found(root: Path, name: str) -> Path | None:
    """Return the path of a file of the data set, packed (.gz) or not, None where there is none."""
    return next((path for path in (root / name, root / f"{name}.gz") if path.is_file()), None)


def class_labels(cells: Mapping[str, str]) -> dict[str, int]:
    """Return the labels in the columns of `CLASSES`: 1.0, 0.0, -1.0, or nothing where a class is not mentioned.

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
