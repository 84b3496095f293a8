"""Reads MIMIC-CXR and MIMIC-CXR-JPG, as PhysioNet releases them (Johnson et al., 2019)."""

from pathlib import Path

from gloria.data.cells import identity
from gloria.data.layouts.imported import CLASSES, Imported, class_labels, found, listed
from gloria.data.sections import Section, choose_section, lost_sections
from gloria.data.table import Row

METADATA = "mimic-cxr-2.0.0-metadata.csv"
SPLIT = "mimic-cxr-2.0.0-split.csv"
LABELS = "mimic-cxr-2.0.0-chexpert.csv"
RECORDS = "cxr-record-list.csv"
FRONTAL = ("PA", "AP")


def read_mimic(
    root: str | Path, reports: str | Path | None = None, section: Section = "both", all_views: bool = False
) -> Imported:
    """Read either release.

    Images are files/p10/p10000032/s50414267/<dicom_id>.jpg or .dcm; reports are files/p10/p10000032/s50414267.txt, to
    which mimic-cxr-reports.zip of MIMIC-CXR unpacks. Tables may be gzipped. MIMIC-CXR-JPG needs the metadata, which
    list the images and their views; the split and the CheXpert labels are read if they exist. MIMIC-CXR needs the
    record list, which does not tell the view, unless the metadata lie beside it.

    Args:
        root: folder of the release, which holds files/ and the tables.
        reports: folder that holds files/ with the reports; default: `root`.
        section: part of a report to take, see `gloria.data.sections.choose_section`.
        all_views: take lateral views too.

    Returns:
        A row for each image: patient is "p" and the subject's number, split is "train", "validate" or "test". Left out:
        images of other views, missing images, and studies without a report or without the section.

    Raises:
        FileNotFoundError: no list of images, or no folder of reports.
        ValueError: a table without its columns.
    """
    root = Path(root)
    texts = Path(reports) if reports else root
    if not (texts / "files").is_dir():
        raise FileNotFoundError(
            f"{texts} holds no folder files; unpack mimic-cxr-reports.zip, and name its folder with --reports"
        )
    is_dicom = found(root, RECORDS) is not None
    columns = ("dicom_id", "subject_id", "study_id")
    listing = RECORDS if is_dicom and not found(root, METADATA) else METADATA
    images = listed(root, listing, columns if listing == RECORDS else (*columns, "ViewPosition"))
    splits, labels = {}, {}
    if found(root, SPLIT):
        split_of = listed(root, SPLIT, ("dicom_id", "split"))
        splits = {record.cells["dicom_id"]: record.cells["split"] for record in split_of}
    if found(root, LABELS):
        labels_of = listed(root, LABELS, ("study_id",), CLASSES)
        labels = {identity(record.cells["study_id"]): class_labels(record.cells) for record in labels_of}
    imported = Imported()
    chosen: dict[str, str] = {}  # text by study, which has several images
    for record in images:
        image, subject, study = (identity(record.cells[name]) for name in columns)
        if not (image and subject and study):
            imported.leave_out(f"no {', '.join(columns[:-1])} or {columns[-1]}", f"line {record.line}")
            continue
        view = record.cells.get("ViewPosition")
        if view is not None and view not in FRONTAL and not all_views:
            imported.leave_out("not a frontal view", image)
            continue
        patient = Path("files", f"p{subject[:2]}", f"p{subject}")
        place, name = texts / patient / f"s{study}.txt", f"s{study}"
        if name not in chosen:
            try:
                text = place.read_text(encoding="utf-8")
            except FileNotFoundError:
                imported.leave_out("no report", name)
                continue
            except (OSError, ValueError):
                imported.leave_out("the report cannot be read", name)
                continue
            chosen[name] = choose_section(text, section)
            if chosen[name] and (lost := lost_sections(text, section)):
                imported.lost[name] = lost
        if not chosen[name]:
            imported.leave_out(f"no {section} in the report", name)
            continue
        row = Row(
            line=record.line,
            image=root / patient / name / f"{image}.{'dcm' if is_dicom else 'jpg'}",
            report=chosen[name],
            patient=f"p{subject}",
            split=splits.get(image, ""),
            labels=labels.get(study, {}),
        )
        imported.add(row, f"{image}.{'dcm' if is_dicom else 'jpg'}")
    return imported
