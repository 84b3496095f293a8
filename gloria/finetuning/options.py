"""FinetuningOptions: how the weights of a classifier or segmenter are trained, checked when they are made."""

import math
from dataclasses import dataclass
from typing import Annotated

from typer import Option

from gloria.training.options import Cpu


@dataclass(frozen=True)
class FinetuningOptions:
    """How to train what is trained by steps: everything but the linear layer on a frozen encoder.

    Each field is also an option of `gloria finetune`, with the default, limits and help that stand at the field. AdamW
    with a weight decay of 1e-6, up over a tenth of the steps and down to 0.

    Raises:
        ValueError: a value out of its range.
    """

    steps: Annotated[int, Option(min=1, help="Batches to train on.")] = 300
    batch_size: Annotated[int, Option(min=1, help="Images in a batch; fewer rows make one batch.")] = 16
    learning_rate: Annotated[float, Option(help="The highest. A small model from scratch bears 1e-3.")] = 1e-4
    cache: Annotated[str | None, Option(help="Folder that keeps decoded images. Default: decode every time.")] = None
    cpu: Cpu = False

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate is {self.learning_rate}; expected a number above 0, such as 1e-4")


FINETUNING = FinetuningOptions()
