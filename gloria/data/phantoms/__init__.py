"""Draws chest phantoms: frontal radiographs with findings, their masks and a report."""

from gloria.data.phantoms.drawing import (
    FINDINGS,
    KINDS,
    OF_EACH,
    Phantom,
    draw_phantom,
    rows_of_finding,
    write_five_by_200,
    write_phantoms,
)
from gloria.data.phantoms.reports import NAMES, Finding, write_report

__all__ = [
    "FINDINGS",
    "KINDS",
    "NAMES",
    "OF_EACH",
    "Finding",
    "Phantom",
    "draw_phantom",
    "rows_of_finding",
    "write_five_by_200",
    "write_phantoms",
    "write_report",
]
