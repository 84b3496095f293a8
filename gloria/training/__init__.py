"""Training on rows of a table: options, pairs of a batch, the Trainer, and a run with its folder."""

from gloria.training.options import DEFAULTS, TrainingOptions
from gloria.training.pairs import PairCollator, PairDataset, equal_report_ids
from gloria.training.run import CHECKPOINTS, HELD_OUT, METRICS, last_checkpoint, train

__all__ = [
    "CHECKPOINTS",
    "DEFAULTS",
    "HELD_OUT",
    "METRICS",
    "PairCollator",
    "PairDataset",
    "TrainingOptions",
    "equal_report_ids",
    "last_checkpoint",
    "train",
]
