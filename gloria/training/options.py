"""TrainingOptions: how a run trains, checked when they are made."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal, get_args, get_origin, get_type_hints

from transformers.integrations import get_available_reporting_integrations
from transformers.utils import is_torch_bf16_gpu_available, is_torch_xla_available
from typer import Option

from gloria.data.pairs import BadFiles
from gloria.data.reports import Text

Optimizer = Literal["adamw", "adam"]
Schedule = Literal["linear", "plateau"]
Cpu = Annotated[bool, Option(help="Use no accelerator.")]


@dataclass(frozen=True)
class TrainingOptions:
    """Holds the options of training.

    The defaults suit fine-tuning for a few epochs; the recipe "released" has the released options. Each field is also
    an option of `gloria train`, with the field's default, limits and help. An evaluation stalls if it does not improve
    the figure that `best_by` names, or the loss.

    Attributes:
        ks: values of K in Precision@K and Recall@K.
        progress: show progress bars, on a terminal.

    Raises:
        ValueError: a value out of range; the message has the fix.
    """

    epochs: Annotated[int, Option(min=1, help="Passes over the training rows.")] = 10
    batch_size: Annotated[
        int, Option(min=2, help="Pairs in a batch of one process (released: 48). Fewer rows make one batch.")
    ] = 48
    micro_batch_size: Annotated[
        int | None, Option(min=1, help="Pairs encoded at once, for batches beyond memory. Default: all.")
    ] = None
    learning_rate: Annotated[float, Option(help="The highest (released: 5e-5). Default with --preset: 1e-3.")] = 5e-5
    optimizer: Annotated[Optimizer, Option(help="adam has the weight decay in its gradient (released).")] = "adamw"
    beta1: Annotated[float, Option(help="Of the optimizer (released: 0.5).")] = 0.9
    weight_decay: Annotated[float, Option(help="Of all parameters but biases, norms and scales (released: 1e-6).")] = (
        1e-6
    )
    schedule: Annotated[
        Schedule,
        Option(
            help="linear: up over a tenth of the steps, down to 0; plateau (released): half if 6 evaluations stall."
        ),
    ] = "linear"
    max_grad_norm: Annotated[
        float, Option(help="Longer gradients are clipped to it; 0 clips none (released: 0.25).")
    ] = 1.0
    early_stopping: Annotated[
        int | None, Option(min=1, help="End when so many evaluations in a row stall (released: 10). Default: never.")
    ] = None
    best_by: Annotated[
        str | None, Option(help="Keep the best model by 'loss' or e.g. 'image_to_text_P@5'. Default: the last.")
    ] = None
    freeze_image_encoder: Annotated[
        bool, Option(help="Keep its weights and running statistics, without dropout; train the projections.")
    ] = False
    freeze_text_encoder: Annotated[bool, Option(help="The same for the text encoder.")] = False
    all_negatives: Annotated[
        float,
        Option(
            help="Of an objective with a hinge: share of the steps in which all negatives count. From then on the "
            "hardest alone do, which collapse a model from scratch."
        ),
    ] = 0.5
    retrieval_rows: Annotated[
        int, Option(min=0, help="Held-out rows, evenly spaced, that every evaluation ranks (released: 1000).")
    ] = 1000
    ks: tuple[int, ...] = (1, 5, 10)
    text: Annotated[
        Text,
        Option(
            help="What is read of a report: itself, its sentences, one drawn each time (released), or one drawn of "
            "those that deny nothing."
        ),
    ] = "report"
    bad_files: Annotated[
        BadFiles, Option(help="If an image fails to decode: warn and take another row, or end the run.")
    ] = "replace"
    cache: Annotated[str | None, Option(help="Folder that keeps decoded images. Default: decode every time.")] = None
    group_equal_reports: Annotated[bool, Option(help="Equal reports are not negatives of one another.")] = True
    workers: Annotated[int, Option(min=0, help="Processes that read images; 0 reads them in this one.")] = 0
    seed: Annotated[int, Option(min=0, help="Of the split, the order, new weights and dropout.")] = 0
    bf16: Annotated[bool, Option(help="Run the encoders under bfloat16 autocast.")] = False
    cpu: Cpu = False
    report_to: Annotated[tuple[str, ...], Option(help="tensorboard, wandb ...; may be given several times.")] = ()
    progress: bool = True

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self), include_extras=True).items():
            kind, *declared = get_args(hint) or (hint,)
            value, least = getattr(self, name), getattr(declared[0], "min", None) if declared else None
            if least is not None and value is not None and value < least:
                raise ValueError(f"{name} is {value}; expected at least {least}")
            if get_origin(kind) is Literal and value not in get_args(kind):
                raise ValueError(f"{name} is {value!r}; expected one of {get_args(kind)}")
        if self.retrieval_rows == 1:
            raise ValueError("retrieval_rows is 1; expected at least two to rank, or 0 for no retrieval")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate is {self.learning_rate}; expected a number above 0, such as 5e-5")
        for name in ("weight_decay", "max_grad_norm"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a finite number of at least 0")
        if not 0 <= self.beta1 < 1:
            raise ValueError(f"beta1 is {self.beta1}; expected at least 0 and less than 1, such as 0.9")
        if not 0 <= self.all_negatives <= 1:
            raise ValueError(f"all_negatives is {self.all_negatives}; expected a share of the steps, 0 to 1")
        if self.bf16 and not self.cpu and not is_torch_bf16_gpu_available() and not is_torch_xla_available():
            raise ValueError("bf16 is True and there is no GPU that computes in it; add --no-bf16 or --cpu")
        available = get_available_reporting_integrations() if self.report_to else []
        for name in self.report_to:
            if name not in available:
                raise ValueError(f"report_to names {name!r}; expected one of {available}, or `pip install {name}`")
        if self.best_by not in (None, "loss") and not self.retrieval_rows:
            raise ValueError(f"best_by is {self.best_by!r} and retrieval_rows 0; expected 'loss', or rows to rank")

    @property
    def encoded_at_once(self) -> int:
        """Number of pairs that the encoders see at once."""
        return self.batch_size if self.micro_batch_size is None else min(self.micro_batch_size, self.batch_size)


DEFAULTS = TrainingOptions()
