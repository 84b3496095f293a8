"""What keeps a run safe from step to step: the state after the last finished one, and a stop where numbers break."""

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers import TrainingArguments as Arguments


class NonFiniteError(ValueError):
    """A loss or a gradient that is NaN or infinite; the message says where, and names the rows of the batch."""


class LastFinishedStep(TrainerCallback):
    """Brings a run back to where its last finished step left it, when the next one breaks.

    Within a step, forward moves the random numbers (dropout) and the running statistics of the model; both are noted
    when it begins. While the optimizer is at work, weights are of neither step, and there is nothing to return to.
    """

    def __init__(self) -> None:
        self.updating = False
        self.lines: list[int] = []
        self._before_step: tuple[dict[str, Any], list[Tensor]] | None = None

    def on_step_begin(self, args: Arguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Note random numbers and buffers."""
        self._before_step = random_state(args.device), [value.clone() for value in kwargs["model"].buffers()]

    def on_pre_optimizer_step(
        self, args: Arguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop before gradients that are NaN or infinite reach the weights."""
        gradients = [each.grad for each in kwargs["model"].parameters() if each.grad is not None]
        self.check(torch.nn.utils.get_total_norm(gradients), "gradient norm", state)
        self.updating = True

    def on_step_end(self, args: Arguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """The step is finished: there is nothing to undo."""
        self.updating, self._before_step = False, None

    def check(self, value: Tensor, what: str, state: TrainerState) -> None:
        """Raise NonFiniteError, with the lines of the batch, where `value` is NaN or infinite."""
        if not torch.isfinite(value):
            lines = ", ".join(map(str, sorted(self.lines)))
            raise NonFiniteError(
                f"the {what} is {value.item()} in step {state.global_step + 1}; its batch holds the rows on lines "
                f"{lines} of the table: look at their images and reports, and where they are in order lower "
                "learning_rate or max_grad_norm, and resume with --change"
            )

    def return_to(self, model: nn.Module, device: torch.device) -> None:
        """Undo what an unfinished step did to random numbers and buffers."""
        if self._before_step is not None:
            state, buffers = self._before_step
            set_random_state(state, device)
            for value, noted in zip(model.buffers(), buffers, strict=True):
                value.copy_(noted)


def random_state(device: torch.device) -> dict[str, Any]:
    """Return the states of all generators of random numbers."""
    state = {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state()}
    if device.type != "cpu":
        state["device"] = torch.get_device_module(device).get_rng_state(device)
    return state


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Bring back what `random_state` gave."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(state["device"], device)
