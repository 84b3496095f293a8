"""Reads CheXpert (Irvin et al., 2019), with the reports of CheXpert Plus (Chambon et al., 2024) if present."""

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gloria.data.layouts.imported import CLASSES, Imported, class_labels, listed
from gloria.data.sections import Section
from gloria.data.table import Row, is_there
from gloria.messages import shown

SPLITS = {"train.csv": "train", "valid.csv": "validation", "test.csv": "test"}
BATCHES = "CheXpert-v1.0 batch *"  # folders of the full download; one of them holds the tables
PLUS = "df_chexpert_plus_*.csv"
PLUS_SECTIONS = {
    "findings": ("section_findings",),
    "impression": ("section_impression",),
    "both": ("section_findings", "section_impression"),
    "whole": ("report",),
}
PLUS_COLUMNS = ("path_to_image", "frontal_lateral", "split", "report", *PLUS_SECTIONS["both"])
COMPETITION = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")  # the competition's
_PATIENT = re.compile(r"patient[^a-z]*[0-9].*", re.IGNORECASE)  # not "patients"


def read_chexpert(root: str | Path, section: Section = "both", all_views: bool = False) -> Imported:
    """Read CheXpert-v1.0 and -small, alone or with df_chexpert_plus_*.csv beside train.csv; or CheXpert Plus alone.

    The folder in an image's path whose name starts with "patient" is the patient; the part before it does not matter.
    Images are searched at their path and in the folders of the release.

    Args:
        root: folder that holds train.csv, valid.csv or test.csv and the folders of that name, or the folders of the
            batches; or CheXpert Plus's table, with the images in train/ and valid/, PNG/ or PNG/PNG/.
        section: part of a report to take: "findings", "impression", "both", or "whole" for all of it.
        all_views: take lateral views too.

    Returns:
        A row for each existing image, with its labels, and with its report if there is one: CheXpert itself has none.

    Raises:
        FileNotFoundError: no table.
        ValueError: a table without its columns, a path without a patient, or an invalid label.
    """
    root = Path(root)
    imported, images = Imported(), _ImageFinder(root)
    reports = {place.inside: cells for place, cells in _plus_records(root)}
    folders = (root, *sorted(root.glob(BATCHES)))
    tables = [next((folder / name for folder in folders if (folder / name).is_file()), None) for name in SPLITS]
    if not any(tables):
        _read_plus(root, imported, images, section, all_views)
        return imported
    for table in filter(None, tables):
        for record in listed(table.parent, table.name, ("Path", "Frontal/Lateral", *COMPETITION), CLASSES):
            place = _ImagePath.of(table, record.line, record.cells["Path"])
            if record.cells["Frontal/Lateral"] != "Frontal" and not all_views:
                imported.leave_out("not a frontal view", place.given)
                continue
            try:
                labels = class_labels(record.cells)
            except ValueError as error:
                raise ValueError(f"{table}, line {record.line}: {error}") from error
            report = _report(reports[place.inside], section) if place.inside in reports else ""
            image, split = images.find(place, table.stem), SPLITS[table.name]
            imported.add(Row(record.line, image, report, place.patient, split, labels=labels), place.given)
    return imported


def five_by(rows: Sequence[Row], of_each: int = 200, seed: int = 0) -> tuple[list[Row], list[Row]]:
    """Draw a set like CheXpert 5x200: training images that show exactly one class of `COMPETITION`.

    The released GLoRIA chooses the same way: one class is 1, and all others but "No Finding" are 0 or not mentioned.
    Its choice has no seed, so its 1,000 images are not known.

    Args:
        rows: rows of `read_chexpert`, with labels.
        of_each: images of each class.
        seed: seed of the draw.

    Returns:
        The set, with the class as label and "test" as split; and all rows of other patients, to train on.

    Raises:
        ValueError: fewer than `of_each` such images of a class.
    """
    drawing = random.Random(seed)
    chosen: list[Row] = []
    for name in COMPETITION:
        others = set(CLASSES) - {name, "No Finding"}
        alone = [
            row
            for row in rows
            if row.split == "train" and row.labels.get(name) == 1 and not any(row.labels.get(each) for each in others)
        ]
        if len(alone) < of_each or of_each < 1:
            raise ValueError(
                f"{len(alone)} images of the training part show {name} alone, and of_each is {of_each}; ask for 1 to "
                f"{len(alone)} (--of-each)"
            )
        chosen += [replace(row, label=name, split="test") for row in drawing.sample(alone, of_each)]
    patients = {row.patient for row in chosen}
    return chosen, [row for row in rows if row.patient not in patients]


@dataclass(frozen=True)
class _ImagePath:
    """Holds the path of an image as a table gives it.

    Attributes:
        line: line of the table.
        given: the path in the table, with / as separator.
        patient: the folder whose name starts with "patient".
        inside: the path from that folder on.
    """

    line: int
    given: str
    patient: str
    inside: str

    @classmethod
    def of(cls, table: Path, line: int, path: str) -> "_ImagePath":
        given = path.replace("\\", "/")
        *folders, _ = parts = given.split("/")
        for number in reversed(range(len(folders))):
            if _PATIENT.fullmatch(folders[number]):
                return cls(line, given, folders[number], "/".join(parts[number:]))
        raise ValueError(
            f"{table}, line {line}: the path is {shown(path)}; expected one with the folder of a patient, such as "
            "train/patient00001/study1/view1_frontal.jpg"
        )


class _ImageFinder:
    """Finds images at their path in the table, or below the folders of a release.

    CheXpert Plus has PNG files under the names of the JPEG files. The folder of the last image is tried first:
    images lie in few folders.
    """

    def __init__(self, root: Path) -> None:
        batches = [*root.glob(BATCHES), *(root.parent.glob(BATCHES) if root.match(BATCHES) else ())]
        self.root = root
        self.folders = [root, root / "PNG", root / "PNG" / "PNG", *sorted(batches)]

    def find(self, place: _ImagePath, split: str) -> Path | None:
        """Return the file, None if there is none; `split` is the release's folder for the table."""
        given = self.root / place.given
        if is_there(given):
            return given
        for folder in self.folders:
            for parts in ((split, place.inside), (place.inside,)):
                path = folder.joinpath(*parts)
                for image in (path, path.with_suffix(".png")):
                    if is_there(image):
                        self.folders.remove(folder)
                        self.folders.insert(0, folder)
                        return image
        return None


def _read_plus(root: Path, imported: Imported, images: _ImageFinder, section: Section, all_views: bool) -> None:
    for place, cells in _plus_records(root):
        if cells["frontal_lateral"] != "Frontal" and not all_views:
            imported.leave_out("not a frontal view", place.given)
            continue
        report, split = _report(cells, section), "validation" if cells["split"] == "valid" else cells["split"]
        image = images.find(place, cells["split"])
        imported.add(Row(place.line, image, report, place.patient, split), place.given)
    if not imported.rows and not imported.left_out:
        raise FileNotFoundError(f"{root} holds none of {', '.join(SPLITS)} and no {PLUS}; expected CheXpert's folder")


def _plus_records(root: Path) -> Iterator[tuple[_ImagePath, Mapping[str, str]]]:
    """Yield the records of CheXpert Plus's table, if any, with the paths of their images."""
    for table in sorted(root.glob(PLUS))[-1:]:  # named after its date: the latest
        for record in listed(root, table.name, PLUS_COLUMNS):
            yield _ImagePath.of(table, record.line, record.cells["path_to_image"]), record.cells


def _report(cells: Mapping[str, str], section: Section) -> str:
    parts = (" ".join(cells[name].split()) for name in PLUS_SECTIONS[section])
    return " ".join(dict.fromkeys(filter(None, parts)))
