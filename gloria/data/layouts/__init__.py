"""Reads public data sets, as they are released, into the rows of one table."""

from gloria.data.layouts.chexpert import five_by, read_chexpert
from gloria.data.layouts.imported import Imported
from gloria.data.layouts.mimic import read_mimic
from gloria.data.layouts.openi import read_openi
from gloria.data.layouts.registry import LAYOUTS, Layout
from gloria.data.layouts.rsna import read_rsna

__all__ = ["LAYOUTS", "Imported", "Layout", "five_by", "read_chexpert", "read_mimic", "read_openi", "read_rsna"]
