"""Trains on the rows of a table: options, collator, Trainer, and a run with its folder."""

from gloria.training.checkpoints import CHECKPOINTS, last_checkpoint
from gloria.training.collator import PairCollator
from gloria.training.options import DEFAULTS, TrainingOptions
from gloria.training.run import HELD_OUT, METRICS, count_rows, train

__all__ = [
    "CHECKPOINTS",
    "DEFAULTS",
    "HELD_OUT",
    "METRICS",
    "PairCollator",
    "TrainingOptions",
    "count_rows",
    "last_checkpoint",
    "train",
]
