"""Reads the RSNA Pneumonia Detection Challenge (Shih et al., 2019) as Kaggle releases it: DICOM, and boxes in a CSV."""

from pathlib import Path

from gloria.data.cells import identity
from gloria.data.layouts.imported import Imported, listed
from gloria.data.layouts.released_split import released_split
from gloria.data.table import Box, Row, box_of
from gloria.messages import shown

LABELS = "stage_2_train_labels.csv"
IMAGES = "stage_2_train_images"
COLUMNS = ("patientId", "x", "y", "width", "height", "Target")


def read_rsna(root: str | Path) -> Imported:
    """Read the training part, the only one with labels.

    Args:
        root: folder that holds stage_2_train_labels.csv and stage_2_train_images/.

    Returns:
        A row for each existing image, without a report, since the release has none: labels Pneumonia 1 or 0, label
        "Pneumonia" or "No Pneumonia", the boxes of all its lines, and its part of the split of the released GLoRIA,
        which Kaggle's release does not have. The patient is the patientId, which belongs to one image.

    Raises:
        FileNotFoundError: the table is missing.
        ValueError: a line that neither holds a box nor says that there is none.
    """
    root = Path(root)
    lines: dict[str, int] = {}
    boxes: dict[str, list[Box]] = {}
    for record in listed(root, LABELS, COLUMNS):
        image, target = record.cells["patientId"], identity(record.cells["Target"])
        numbers = [record.cells[name] for name in COLUMNS[1:5]]
        try:
            if not image or target not in ("0", "1"):
                raise ValueError
            of_line = [box_of(numbers)] if target == "1" else []
        except ValueError:
            raise ValueError(
                f"{root / LABELS}, line {record.line}: Target is {shown(target)} with the box {shown(numbers)}, of the "
                f"patientId {shown(image)}; expected 0 without a box, or 1 with x, y, width and height"
            ) from None
        lines.setdefault(image, record.line)
        boxes.setdefault(image, []).extend(of_line)
    imported, split = Imported(), released_split(lines)
    for image, line in lines.items():
        present = bool(boxes[image])
        row = Row(
            line=line,
            image=root / IMAGES / f"{image}.dcm",
            report="",
            patient=image,
            split=split[image],
            label="Pneumonia" if present else "No Pneumonia",
            labels={"Pneumonia": int(present)},
            boxes=tuple(boxes[image]),
        )
        imported.add(row, f"{image}.dcm")
    return imported
