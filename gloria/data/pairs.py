"""Makes pairs of image and text for training from the rows of a table; an unreadable file does not end the run."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch.utils.data import Dataset

from gloria.data.cache import PixelCache
from gloria.data.reports import TEXTS, Text, text_id, text_to_read
from gloria.data.table import Row
from gloria.messages import plain
from gloria.processing import GloriaProcessor

BadFiles = Literal["replace", "refuse"]
BAD_FILES: tuple[BadFiles, ...] = get_args(BadFiles)


class TableDataset(Dataset):
    """Gives the rows of a table as pixels, text and text id.

    Args:
        rows: rows with an image and a report each.
        processor: makes the pixels here, in the worker; the collator, which pads, makes the tokens.
        text: part of a report to read, see `gloria.data.reports.text_to_read`.
        group_equal_texts: give equal texts the same id, so that they are not negatives of each other.
        bad_files: what to do with an image that fails to decode: "replace" warns and takes the next readable row, so
            that batches stay full; "refuse" raises.
        cache: folder of a `PixelCache`; None decodes an image each time it is read.

    Raises:
        ValueError: another `text` or `bad_files`.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        processor: GloriaProcessor,
        text: Text = "report",
        group_equal_texts: bool = True,
        bad_files: BadFiles = "replace",
        cache: str | Path | None = None,
    ) -> None:
        check_choices(text, bad_files)
        self.rows, self.text, self.bad_files = rows, text, bad_files
        self.group_equal_texts = group_equal_texts
        self.image_processor = processor.image_processor
        self.framed: Callable[[Any], np.ndarray] = (
            self.image_processor.frame if cache is None else PixelCache(cache, self.image_processor)
        )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return pixel_values (3, H, W) float32, report, line, and report_id if ids are asked for.

        Raises:
            ValueError: an unreadable image, with `bad_files` "refuse"; or no readable image at all.
        """
        for step in range(len(self.rows)):
            row = self.rows[(index + step) % len(self.rows)]
            try:
                framed = self.framed(row.image)
            except (OSError, ValueError, TypeError) as error:
                report_unreadable(f"{row.where}: {error}", self.bad_files)
                continue
            pixels = torch.from_numpy(self.image_processor.to_pixels(framed))
            return pair(pixels, row.report, row.line, self.text, self.group_equal_texts)
        raise ValueError(f"none of the {len(self.rows)} images can be read; check that the disk is there")


def pair(pixels: torch.Tensor, report: str, line: int, text: Text, group_equal_texts: bool) -> dict[str, Any]:
    """Return an item of a training set; messages use the line of its row."""
    read = text_to_read(report, text)
    item = {"pixel_values": pixels, "report": read, "line": line}
    return {**item, "report_id": text_id(read)} if group_equal_texts else item


def check_choices(text: str, bad_files: str) -> None:
    """Raise ValueError if `text` is not a `Text` or `bad_files` not a `BadFiles`."""
    for name, given, known in (("text", text, TEXTS), ("bad_files", bad_files, BAD_FILES)):
        if given not in known:
            raise ValueError(f"{name} is {given!r}; expected one of {', '.join(map(repr, known))}")


def report_unreadable(what: str, bad_files: BadFiles) -> None:
    """Raise, or warn; Python prints each warning once."""
    what = plain(what)
    if bad_files == "refuse":
        raise ValueError(f"{what}; repair or remove the file, or let others take its place (bad_files='replace')")
    warnings.warn(f"{what}; another pair takes its place", stacklevel=3)
