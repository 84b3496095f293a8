"""Keeps the state after the last finished step, and stops a run whose numbers are NaN or infinite."""

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers import TrainingArguments as Arguments


class NonFiniteError(ValueError):
    """A loss or a gradient is NaN or infinite; the message says where, and names the rows of the batch."""


class LastFinishedStep(TrainerCallback):
    """Returns a run to the state after its last finished step, when the next one fails.

    In a step, forward changes the random state (dropout) and the running statistics of the model; both are saved when
    it begins. While the optimizer updates the weights, they belong to neither step, and no return is possible.
    """

    def __init__(self) -> None:
        self.updating = False
        self.lines: list[int] = []
        self._before_step: tuple[dict[str, Any], list[Tensor]] | None = None

    def on_step_begin(self, args: Arguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save the random state and the buffers."""
        self._before_step = random_state(args.device), [value.clone() for value in kwargs["model"].buffers()]

    def on_pre_optimizer_step(
        self, args: Arguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop before NaN or infinite gradients reach the weights."""
        gradients = [each.grad for each in kwargs["model"].parameters() if each.grad is not None]
        self.check(torch.nn.utils.get_total_norm(gradients), "gradient norm", state)
        self.updating = True

    def on_step_end(self, args: Arguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Forget the saved state: the step is finished."""
        self.updating, self._before_step = False, None

    def check(self, value: Tensor, what: str, state: TrainerState) -> None:
        """Raise NonFiniteError, with the lines of the batch, if `value` is NaN or infinite."""
        if not torch.isfinite(value):
            lines = ", ".join(map(str, sorted(self.lines)))
            raise NonFiniteError(
                f"the {what} is {value.item()} in step {state.global_step + 1}; its batch holds the rows on lines "
                f"{lines} of the table: look at their images and reports, and where they are in order lower "
                "learning_rate or max_grad_norm, and resume with --change"
            )

    def return_to(self, model: nn.Module, device: torch.device) -> None:
        """Undo an unfinished step's changes to the random state and the buffers."""
        if self._before_step is not None:
            state, buffers = self._before_step
            set_random_state(state, device)
            for value, noted in zip(model.buffers(), buffers, strict=True):
                value.copy_(noted)


def random_state(device: torch.device) -> dict[str, Any]:
    """Return the states of all random number generators."""
    state = {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state()}
    if device.type != "cpu":
        state["device"] = torch.get_device_module(device).get_rng_state(device)
    return state


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Restore what `random_state` returned."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(state["device"], device)
