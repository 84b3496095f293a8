"""Reads Open-i, the chest X-rays of Indiana University, as the National Library of Medicine releases them."""

import re
from pathlib import Path
from xml.etree import ElementTree

from gloria.data.layouts.imported import Imported
from gloria.data.sections import Section
from gloria.data.table import Row

IMAGES = (".png", ".jpg", ".dcm")
_PARTS = {"findings": ("FINDINGS",), "impression": ("IMPRESSION",), "both": ("FINDINGS", "IMPRESSION")}


def read_openi(root: str | Path, section: Section = "both") -> Imported:
    """Read the reports of NLMCXR_reports.tgz and the images of NLMCXR_png.tgz or NLMCXR_dcm.tgz.

    The release does not tell frontal from lateral views: all images of a report are taken.

    Args:
        root: folder of the unpacked archives: ecgen-radiology/*.xml, and the images anywhere below it.
        section: part of a report to take: "findings", "impression", "both", or "whole" for every section.

    Returns:
        A row for each image. Its line is the number of its report; its patient is the report's id, since the release
        does not tell patients. Left out: unreadable reports, reports without the section, and missing images.

    Raises:
        FileNotFoundError: no folder ecgen-radiology with reports.
    """
    root = Path(root)
    reports = sorted(root.rglob("ecgen-radiology/*.xml"), key=lambda path: (len(path.stem), path.stem))
    if not reports:
        raise FileNotFoundError(f"{root} holds no ecgen-radiology/*.xml; unpack NLMCXR_reports.tgz there")
    images = {_image_key(path.stem): path for path in sorted(root.rglob("*")) if path.suffix.lower() in IMAGES}
    imported = Imported()
    for number, path in enumerate(reports, 1):
        try:
            tree = ElementTree.parse(path).getroot()
        except (ElementTree.ParseError, LookupError, ValueError) as error:  # not well-formed, or of unknown encoding
            imported.leave_out(f"not valid XML ({error})", path.name)
            continue
        report = _report(tree, section)
        if not report:
            imported.leave_out(f"no {section} in the report", path.name)
            continue
        identity = tree.find("uId")
        patient = path.stem if identity is None else identity.get("id", path.stem)
        names = [image.get("id", "") for image in tree.iter("parentImage")]
        if not names:
            imported.leave_out("no image in the report", path.name)
        for name in names:
            imported.add(Row(number, images.get(_image_key(name)), report, patient), name)
    return imported


def _report(tree: ElementTree.Element, section: Section) -> str:
    texts = {part.get("Label", ""): " ".join("".join(part.itertext()).split()) for part in tree.iter("AbstractText")}
    wanted = _PARTS.get(section, tuple(texts))
    return " ".join(dict.fromkeys(text for name in wanted if (text := texts.get(name))))


def _image_key(name: str) -> str:
    """Return an image's name as in both archives, without the "CXR" and report number that the PNG archive adds."""
    return re.sub(r"^CXR\d+_(?=\d+_)", "", name)
