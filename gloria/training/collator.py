"""Makes a batch of items of a training set: stacks pixels, tokenizes and pads reports."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gloria.processing import GloriaProcessor


class PairCollator:
    """Makes the arguments of `GloriaModel.forward` from items of `gloria.data.TableDataset` or `ShardDataset`.

    Args:
        processor: tokenizes the reports.
        lines: add "lines", (B,) int64, which `GloriaTrainer` takes out before it calls the model.
    """

    def __init__(self, processor: GloriaProcessor, lines: bool = False) -> None:
        self.processor, self.lines = processor, lines

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Stack pixels, tokenize and pad the reports."""
        batch = dict(self.processor(text=[item["report"] for item in items]))
        batch["pixel_values"] = torch.stack([item["pixel_values"] for item in items])
        if "report_id" in items[0]:
            batch["report_ids"] = torch.tensor([item["report_id"] for item in items])
        if self.lines:
            batch["lines"] = torch.tensor([item["line"] for item in items])
        return batch
