"""MIMIC-CXR and MIMIC-CXR-JPG, as PhysioNet ships them (Johnson et al., 2019)."""

from pathlib import Path

from gloria.data.layouts.imported import Imported, class_labels, found, listed
from gloria.data.reports import Section, choose_section
from gloria.data.table import Row

METADATA = "mimic-cxr-2.0.0-metadata.csv"
SPLIT = "mimic-cxr-2.0.0-split.csv"
LABELS = "mimic-cxr-2.0.0-chexpert.csv"
RECORDS = "cxr-record-list.csv"
FRONTAL = ("PA", "AP")


def read_mimic(
    root: str | Path, reports: str | Path | None = None, section: Section = "both", all_views: bool = False
) -> Imported:
    """Reads either release.

    Images are files/p10/p10000032/s50414267/<dicom_id>.jpg or .dcm; reports files/p10/p10000032/s50414267.txt, which
    mimic-cxr-reports.zip of MIMIC-CXR unpacks to. Tables are read packed (.gz) or not: of MIMIC-CXR-JPG the metadata,
    which lists the images and their views, and where they are there, the split and the CheXpert labels; of MIMIC-CXR
    the record list, which does not tell the view, unless the metadata has been put beside it.

    Args:
        root: folder of the release, which holds files/ and the tables.
        reports: folder that holds files/ with the reports; default: `root`.
        section: what is taken of a report, see `gloria.data.reports.choose_section`.
        all_views: take lateral views too.

    Returns:
        A row for each image: patient is "p" and the subject's number, split is "train", "validate" or "test". Left out:
        images of other views, and those of studies without report or without the section.

    Raises:
        FileNotFoundError: neither of the lists is there, or no folder of reports.
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
    if found(root, METADATA):
        images = listed(root, METADATA, (*columns, "ViewPosition"))
    else:
        images = listed(root, RECORDS if is_dicom else METADATA, columns)
    splits, labels = {}, {}
    if found(root, SPLIT):
        listing = listed(root, SPLIT, ("dicom_id", "split"))
        splits = {record.cells["dicom_id"]: record.cells["split"] for record in listing}
    if found(root, LABELS):
        listing = listed(root, LABELS, ("study_id",))
        labels = {record.cells["study_id"]: class_labels(record.cells) for record in listing}
    imported = Imported()
    said: dict[Path, str | None] = {}
    for record in images:
        image, subject, study = (record.cells[name] for name in columns)
        view = record.cells.get("ViewPosition")
        if view is not None and view not in FRONTAL and not all_views:
            imported.leave_out("not a frontal view", image)
            continue
        patient = Path("files", f"p{subject[:2]}", f"p{subject}")
        text = texts / patient / f"s{study}.txt"
        if text not in said:  # a study has several images
            said[text] = choose_section(text.read_text(encoding="utf-8"), section) if text.is_file() else None
        report = said[text]
        if not report:
            imported.leave_out("no report" if report is None else f"no {section} in the report", f"s{study}")
            continue
        imported.rows.append(
            Row(
                line=record.line,
                image=root / patient / f"s{study}" / f"{image}.{'dcm' if is_dicom else 'jpg'}",
                report=report,
                patient=f"p{subject}",
                split=splits.get(image, ""),
                labels=labels.get(study, {}),
            )
        )
    return imported
