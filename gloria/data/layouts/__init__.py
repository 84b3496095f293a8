"""Reads public data sets, as they are released, into the rows of one table."""

from gloria.data.layouts.chexpert import five_by, read_chexpert
from gloria.data.layouts.imported import Imported
from gloria.data.layouts.mimic import read_mimic
from gloria.data.layouts.openi import read_openi
from gloria.data.layouts.registry import LAYOUTS, Layout
from gloria.data.layouts.released_split import released_split
from gloria.data.layouts.rsna import read_rsna
from gloria.data.layouts.run_lengths import decode_runs, encode_runs
from gloria.data.layouts.siim import read_siim
from gloria.data.layouts.uncertain import released_labels

__all__ = [
    "LAYOUTS",
    "Imported",
    "Layout",
    "decode_runs",
    "encode_runs",
    "five_by",
    "read_chexpert",
    "read_mimic",
    "read_openi",
    "read_rsna",
    "read_siim",
    "released_labels",
    "released_split",
]
