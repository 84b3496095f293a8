"""RSNA Pneumonia Detection Challenge (Shih et al., 2019), as Kaggle ships it: DICOM files, and boxes in a CSV."""

from pathlib import Path

from gloria.data.layouts.imported import Imported, listed
from gloria.data.table import Box, Row

LABELS = "stage_2_train_labels.csv"
IMAGES = "stage_2_train_images"
COLUMNS = ("patientId", "x", "y", "width", "height", "Target")


def read_rsna(root: str | Path) -> Imported:
    """Reads the training part, the only one with labels.

    Args:
        root: folder that holds stage_2_train_labels.csv and stage_2_train_images/.

    Returns:
        A row for each image, without a report, since there are none: labels Pneumonia 1 or 0, label "Pneumonia" or "No
        Pneumonia", and the boxes of all its lines. Its patient is its patientId, which the release gives to one image.

    Raises:
        FileNotFoundError: there is no such table.
        ValueError: a line that is no box and no absence of one.
    """
    root = Path(root)
    lines: dict[str, int] = {}
    boxes: dict[str, list[Box]] = {}
    for record in listed(root, LABELS, COLUMNS):
        image, target = record.cells["patientId"], record.cells["Target"]
        numbers = [record.cells[name] for name in COLUMNS[1:5]]
        try:
            x, y, width, height = (float(number or "nan") for number in numbers)
        except ValueError:
            target = ""
        if target not in ("0", "1") or (target == "1" and not (x >= 0 and y >= 0 and width > 0 and height > 0)):
            raise ValueError(
                f"{root / LABELS}, line {record.line}: Target is {record.cells['Target']!r} with the box {numbers}; "
                "expected 0 without a box, or 1 with x, y, width and height"
            )
        lines.setdefault(image, record.line)
        boxes.setdefault(image, []).extend([(x, y, width, height)] if target == "1" else [])
    imported = Imported()
    for image, line in lines.items():
        present = bool(boxes[image])
        imported.rows.append(
            Row(
                line=line,
                image=root / IMAGES / f"{image}.dcm",
                report="",
                patient=image,
                label="Pneumonia" if present else "No Pneumonia",
                labels={"Pneumonia": int(present)},
                boxes=tuple(boxes[image]),
            )
        )
    return imported
