"""CheXpert (Irvin et al., 2019), with the reports of CheXpert Plus (Chambon et al., 2024) where they are there."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from gloria.data.layouts.imported import CLASSES, Imported, class_labels, listed
from gloria.data.reports import Section
from gloria.data.table import Row

SPLITS = {"train.csv": "train", "valid.csv": "validation", "test.csv": "test"}
PLUS = "df_chexpert_plus_*.csv"
PLUS_SECTIONS = {
    "findings": ("section_findings",),
    "impression": ("section_impression",),
    "both": ("section_findings", "section_impression"),
    "whole": ("report",),
}
PLUS_COLUMNS = ("path_to_image", "frontal_lateral", "deid_patient_id", "split", "report", *PLUS_SECTIONS["both"])
FIVE = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")  # the competition's


def read_chexpert(root: str | Path, section: Section = "both", all_views: bool = False) -> Imported:
    """Reads CheXpert-v1.0 and -small, alone or with df_chexpert_plus_*.csv beside train.csv; or CheXpert Plus alone.

    Args:
        root: folder that holds train.csv, valid.csv or test.csv and the folders of that name; or CheXpert Plus's table,
            with the images in train/ and valid/, PNG/ or PNG/PNG/.
        section: what is taken of a report: "findings", "impression", or "both"; "whole" is all of it.
        all_views: take lateral views too.

    Returns:
        A row for each image, with its labels, and without a report where there is none: CheXpert itself has none.

    Raises:
        FileNotFoundError: none of the tables is there.
        ValueError: a table without its columns, or with labels that are none.
    """
    root = Path(root)
    imported = Imported()
    reports = {_inside(cells["path_to_image"]): cells for _, cells in _plus(root)}
    tables = [name for name in SPLITS if (root / name).is_file()]
    if not tables:
        _read_plus(root, imported, section, all_views)
        return imported
    for name in tables:
        for record in listed(root, name, ("Path", "Frontal/Lateral", *FIVE)):
            path = _inside(record.cells["Path"])
            if record.cells["Frontal/Lateral"] != "Frontal" and not all_views:
                imported.leave_out("not a frontal view", path)
                continue
            try:
                labels = class_labels(record.cells)
            except ValueError as error:
                raise ValueError(f"{root / name}, line {record.line}: {error}") from error
            report = _report(reports[path], section) if path in reports else ""
            patient = path.split("/")[1]
            imported.rows.append(Row(record.line, _image(root, path), report, patient, SPLITS[name], labels=labels))
    return imported


def five_by(rows: Sequence[Row], of_each: int = 200, seed: int = 0) -> tuple[list[Row], list[Row]]:
    """Draws a set like CheXpert 5x200: images of the training part that show one of `FIVE` classes and nothing else.

    As the released GLoRIA chooses them: one class is 1, and all others but "No Finding" are 0 or not mentioned; the
    released choice is not seeded, so that its 1,000 images are not known.

    Args:
        rows: with labels, as `read_chexpert` gives them.
        of_each: images of each class.
        seed: of the drawing.

    Returns:
        The set, with the class as label and "test" as split; and all rows of other patients, so that nothing that is
        trained on them has seen a patient of the set.

    Raises:
        ValueError: fewer than `of_each` such images of a class.
    """
    drawing = random.Random(seed)
    chosen: list[Row] = []
    for name in FIVE:
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


def _read_plus(root: Path, imported: Imported, section: Section, all_views: bool) -> None:
    for line, cells in _plus(root):
        path = _inside(cells["path_to_image"])
        if cells["frontal_lateral"] != "Frontal" and not all_views:
            imported.leave_out("not a frontal view", path)
            continue
        report, split = _report(cells, section), "validation" if cells["split"] == "valid" else cells["split"]
        imported.rows.append(Row(line, _image(root, path), report, cells["deid_patient_id"], split))
    if not imported.rows and not imported.left_out:
        raise FileNotFoundError(f"{root} holds none of {', '.join(SPLITS)} and no {PLUS}; expected CheXpert's folder")


def _plus(root: Path) -> Iterator[tuple[int, Mapping[str, str]]]:
    """The records of CheXpert Plus's table, if it is there, with their lines."""
    for table in sorted(root.glob(PLUS))[-1:]:  # named after its date: the latest
        for record in listed(root, table.name, PLUS_COLUMNS):
            yield record.line, record.cells


def _report(cells: Mapping[str, str], section: Section) -> str:
    parts = (" ".join(cells[name].split()) for name in PLUS_SECTIONS[section])
    return " ".join(dict.fromkeys(filter(None, parts)))


def _inside(path: str) -> str:
    """The path of an image from train/ or valid/ on, without the name of the release's folder."""
    return path[path.index("/") + 1 :] if path.startswith("CheXpert") else path


def _image(root: Path, path: str) -> Path:
    """Where the image lies: CheXpert Plus has PNG files in a folder of their own, under the same names."""
    png = Path(path).with_suffix(".png")
    places = (root / path, root / png, root / "PNG" / png, root / "PNG" / "PNG" / png)
    return next((place for place in places if place.is_file()), places[0])
