"""Where images and reports come from: tables on disk, and phantoms that the package draws itself."""

from gloria.data.phantoms import FINDINGS, Phantom, draw_phantom, write_phantoms
from gloria.data.table import Problem, Row, find_problems, read_table, split_rows, write_table

__all__ = [
    "FINDINGS",
    "Phantom",
    "Problem",
    "Row",
    "draw_phantom",
    "find_problems",
    "read_table",
    "split_rows",
    "write_phantoms",
    "write_table",
]
