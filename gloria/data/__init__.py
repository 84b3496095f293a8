"""Sources of images and reports: tables, public data sets, shards, and phantoms that the package draws."""

from gloria.data.cache import PixelCache
from gloria.data.fractions import draw_fraction, draws_of
from gloria.data.pairs import TableDataset
from gloria.data.phantoms import FINDINGS, Phantom, draw_phantom, write_five_by_200, write_phantoms
from gloria.data.problems import Problem, find_problems
from gloria.data.shards import ShardDataset, write_shards
from gloria.data.split import split_rows
from gloria.data.table import Row, read_table, write_table
from gloria.data.table_checks import find_warnings

__all__ = [
    "FINDINGS",
    "Phantom",
    "PixelCache",
    "Problem",
    "Row",
    "ShardDataset",
    "TableDataset",
    "draw_fraction",
    "draw_phantom",
    "draws_of",
    "find_problems",
    "find_warnings",
    "read_table",
    "split_rows",
    "write_five_by_200",
    "write_phantoms",
    "write_shards",
    "write_table",
]
