"""Rows of a table to batches: pixels and report of each row, equal reports numbered alike."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from gloria.data.table import Row
from gloria.processing import GloriaProcessor


class PairDataset(Dataset):
    """Rows of a table as pixels, report, the line of the table, and the id of the report.

    Args:
        rows: without bad ones.
        processor: makes the pixels here, in the worker; the tokens are made by `PairCollator`, which pads.
        report_ids: ids from `equal_report_ids`, None = no ids.
    """

    def __init__(self, rows: Sequence[Row], processor: GloriaProcessor, report_ids: list[int] | None) -> None:
        self.rows, self.processor, self.report_ids = rows, processor, report_ids

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """pixel_values (3, H, W), report, line, and report_id where there are ids."""
        row = self.rows[index]
        pixels = self.processor(images=row.image)["pixel_values"][0]
        item = {"pixel_values": pixels, "report": row.report, "line": row.line}
        return item if self.report_ids is None else {**item, "report_id": self.report_ids[index]}


class PairCollator:
    """Items of `PairDataset` to the arguments of `GloriaModel.forward`.

    Args:
        processor: tokenises.
        lines: add "lines", (B,) int64, which is no argument of the model, but which `GloriaTrainer` takes out.
    """

    def __init__(self, processor: GloriaProcessor, lines: bool = False) -> None:
        self.processor, self.lines = processor, lines

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Stacks pixels, tokenises and pads the reports."""
        batch = dict(self.processor(text=[item["report"] for item in items]))
        batch["pixel_values"] = torch.stack([item["pixel_values"] for item in items])
        if "report_id" in items[0]:
            batch["report_ids"] = torch.tensor([item["report_id"] for item in items])
        if self.lines:
            batch["lines"] = torch.tensor([item["line"] for item in items])
        return batch


def equal_report_ids(rows: Sequence[Row]) -> list[int]:
    """An id for each row, equal where the reports are equal but for case and blanks."""
    ids: dict[str, int] = {}
    return [ids.setdefault(" ".join(row.report.casefold().split()), len(ids)) for row in rows]
