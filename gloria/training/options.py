"""TrainingOptions: everything about how a run trains, checked when it is made."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from transformers.integrations import get_available_reporting_integrations

from gloria.data.pairs import BadFiles
from gloria.data.reports import Text

Optimizer = Literal["adamw", "adam"]
Schedule = Literal["linear", "plateau"]


@dataclass(frozen=True)
class TrainingOptions:
    """How to train. The defaults suit a fine-tuning of some epochs; all that is released is the recipe "released".

    Attributes:
        epochs: passes over the training rows.
        batch_size: pairs in a batch of one process, each a negative of the others, and of those of the other processes.
            Default 48, released. Fewer rows make one batch.
        micro_batch_size: pairs that are encoded at once, for batches beyond memory (`gloria_ops.in_micro_batches`).
            None: the whole batch.
        learning_rate: the highest. Default 5e-5, released.
        optimizer: "adamw", or "adam" with the decay in its gradient (released).
        beta1: of either. Default 0.9 (released: 0.5).
        weight_decay: of all parameters but biases and norms. Default 1e-6, released.
        schedule: "linear": warm-up over a tenth of the steps, then down to 0. "plateau" (released): no warm-up; half as
            much whenever six evaluations in a row have not lowered what `best_by` names, or the loss.
        max_grad_norm: to which longer gradients are clipped; 0 clips none. Default 1 (released: 0.25).
        early_stopping: evaluations in a row without a better value of what `best_by` names, or of the loss, after which
            the run ends (released: 10). None: never.
        best_by: what makes the best evaluation, whose model is kept at the end: "loss", or a measure of the log such as
            "image_to_text_P@5" (`retrieval_measures`). None: the last one is kept.
        freeze_image_encoder, freeze_text_encoder: leave that encoder as it is: weights, running statistics (batch
            statistics are not used), and no dropout. The projections are trained.
        retrieval_rows: held-out rows, evenly spaced, that every evaluation ranks for Precision@K and Recall@K; 0 for
            none. Default 1000, as many as the images of the released evaluation (CheXpert 5x200).
        ks: their K.
        text: what is read of a report: "report", as it is; "sentences" or "sentence", one of them drawn each time
            (released), see `gloria.data.reports.text_to_read`. Evaluations read all sentences in place of one.
        bad_files: what to do with an image that cannot be read all of a sudden: "replace" names it in a warning and
            takes another row, "refuse" ends the run.
        cache: folder that keeps decoded images (`gloria.data.PixelCache`). None: decode at every reading.
        group_equal_reports: rows with equal reports (but for case and blanks) are not negatives of one another.
        workers: processes that read images; 0 reads them in this one.
        seed: of the order of rows and of dropout.
        bf16: run the encoders under bfloat16 autocast.
        cpu: do not use an accelerator.
        report_to: where Trainer reports to beside the log: "tensorboard", "wandb", or another that transformers knows
            and that is installed.
        progress: show progress bars, on a terminal.

    Raises:
        ValueError: a value out of its range, named with the fix.
    """

    epochs: int = 10
    batch_size: int = 48
    micro_batch_size: int | None = None
    learning_rate: float = 5e-5
    optimizer: Optimizer = "adamw"
    beta1: float = 0.9
    weight_decay: float = 1e-6
    schedule: Schedule = "linear"
    max_grad_norm: float = 1.0
    early_stopping: int | None = None
    best_by: str | None = None
    freeze_image_encoder: bool = False
    freeze_text_encoder: bool = False
    retrieval_rows: int = 1000
    ks: tuple[int, ...] = (1, 5, 10)
    text: Text = "report"
    bad_files: BadFiles = "replace"
    cache: str | None = None
    group_equal_reports: bool = True
    workers: int = 0
    seed: int = 0
    bf16: bool = False
    cpu: bool = False
    report_to: tuple[str, ...] = ()
    progress: bool = True

    def __post_init__(self) -> None:
        least = {"epochs": 1, "batch_size": 2, "micro_batch_size": 1, "early_stopping": 1, "workers": 0}
        for name, smallest in (least | {"retrieval_rows": 0}).items():
            value = getattr(self, name)
            if value is not None and value < smallest:
                raise ValueError(f"{name} is {value}; expected {smallest} at least")
        if self.retrieval_rows == 1:
            raise ValueError("retrieval_rows is 1; expected two at least to rank, or 0 for no retrieval")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate is {self.learning_rate}; expected a number above 0, such as 5e-5")
        for name in ("weight_decay", "max_grad_norm"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a finite number of at least 0")
        if not 0 <= self.beta1 < 1:
            raise ValueError(f"beta1 is {self.beta1}; expected at least 0 and less than 1, such as 0.9")
        known = {"optimizer": Optimizer, "schedule": Schedule, "text": Text, "bad_files": BadFiles}
        for name, choices in known.items():
            if getattr(self, name) not in get_args(choices):
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected one of {get_args(choices)}")
        available = get_available_reporting_integrations() if self.report_to else []
        for name in self.report_to:
            if name not in available:
                raise ValueError(f"report_to names {name!r}; expected one of {available}, or `pip install {name}`")
        if self.best_by not in (None, "loss") and not self.retrieval_rows:
            raise ValueError(f"best_by is {self.best_by!r} and retrieval_rows 0; expected 'loss', or rows to rank")

    @property
    def encoded_at_once(self) -> int:
        """Pairs that the encoders see at once."""
        return self.batch_size if self.micro_batch_size is None else min(self.micro_batch_size, self.batch_size)


DEFAULTS = TrainingOptions()
