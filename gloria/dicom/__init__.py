"""Reads DICOM radiographs as a viewer shows them."""

from gloria.dicom.elements import DicomWarning
from gloria.dicom.reading import SUFFIXES, is_dicom, read_dicom

__all__ = ["SUFFIXES", "DicomWarning", "is_dicom", "read_dicom"]
