"""SIIM-ACR Pneumothorax Segmentation (2019), as Kaggle shipped it: DICOM files, and masks as runs in a CSV."""

from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image

from gloria.data.layouts.imported import Imported, found, listed
from gloria.data.layouts.released_split import released_split
from gloria.data.layouts.run_lengths import decode_runs
from gloria.data.table import Row

TABLES = ("train-rle.csv", "stage_2_train.csv")
MASKS = "masks"


def read_siim(root: str | Path, masks: str | Path | None = None) -> Imported:
    """Read the images with masks of the first or the second stage.

    The released code splits the rows of the table, so that an image with several runs is on both sides. Here images are
    split, by the same rule.

    Args:
        root: folder that holds train-rle.csv or stage_2_train.csv, and the images anywhere below.
        masks: folder to write the masks to, as PNG files. Default: "masks" in `root`. Images without a pneumothorax
            share a mask of their size.

    Returns:
        A row for each image that is there, without a report, since there are none: labels Pneumothorax 1 or 0, label
        "Pneumothorax" or "No Pneumothorax", the mask, and the split. Its patient is its ImageId, which the release
        gives to one image.

    Raises:
        FileNotFoundError: there is no such table.
        ValueError: runs that are none, or no mask of their image; an image with runs and with -1.
        OSError: the masks cannot be written.
    """
    root = Path(root)
    folder = root / MASKS if masks is None else Path(masks)
    table = next((name for name in TABLES if found(root, name)), TABLES[0])
    lines: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for record in listed(root, table, ("ImageId", "EncodedPixels")):
        lines[record.cells["ImageId"]].append((record.line, record.cells["EncodedPixels"]))
    images = {path.stem: path for path in root.rglob("*.dcm")}
    split, imported = released_split(lines), Imported()
    folder.mkdir(parents=True, exist_ok=True)
    for name, runs in lines.items():
        line, image = runs[0][0], images.get(name)
        if image is None:
            imported.leave_out("the image is not there", name)
            continue
        try:
            height, width = _size(image)
        except (OSError, ValueError, AttributeError) as error:
            imported.leave_out(f"the image is unreadable ({error})", name)
            continue
        mask = _mask(root / table, runs, height, width)
        present = bool(mask.any())
        path = folder / (f"{name}.png" if present else f"none-{mask.shape[0]}x{mask.shape[1]}.png")
        if not path.exists():
            Image.fromarray(mask).save(path)
        row = Row(
            line=line,
            image=image,
            report="",
            patient=name,
            split=split[name],
            label="Pneumothorax" if present else "No Pneumothorax",
            mask=path,
            labels={"Pneumothorax": int(present)},
        )
        imported.add(row, name)
    return imported


def _size(image: Path) -> tuple[int, int]:
    """Return height and width in pixels, without reading the pixels."""
    try:
        import pydicom
    except ImportError as error:
        raise ImportError(f"{image} is DICOM, which pydicom reads; pip install pydicom") from error
    header = pydicom.dcmread(image, stop_before_pixels=True, force=True)
    return int(header.Rows), int(header.Columns)


def _mask(table: Path, runs: list[tuple[int, str]], height: int, width: int) -> np.ndarray:
    masks = []
    for line, text in runs:
        try:
            masks.append(decode_runs(text, height, width))
        except ValueError as error:
            raise ValueError(f"{table}, line {line}: {error}") from error
    empty = [line for (line, _), mask in zip(runs, masks, strict=True) if not mask.any()]
    if empty and len(masks) > 1:
        raise ValueError(
            f"{table}, line {empty[0]}: no runs, of an image that line {runs[0][0]} names too; expected -1 in the only "
            "line of an image, or runs in each"
        )
    return np.logical_or.reduce(masks)
