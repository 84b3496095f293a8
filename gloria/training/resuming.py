"""Resumes a run: combines the state of its checkpoint with the options that it is given now."""

import warnings
from typing import TYPE_CHECKING, Any

from torch.optim.lr_scheduler import LambdaLR
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState
from transformers import TrainingArguments as Arguments

from gloria.training.checkpoints import checkpoint_of, fault_of
from gloria.training.processes import on_first_process

if TYPE_CHECKING:
    from gloria.training.trainer import GloriaTrainer


class Resuming(TrainerCallback):
    """Prepares a resumed run before its first step: its best checkpoint, its patience, an interrupted evaluation.

    Args:
        trainer: trainer of the run.
    """

    def __init__(self, trainer: "GloriaTrainer") -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Arguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Prepare the run; a new run needs no preparation."""
        for stopping in stopping_of(self.trainer):
            stopping.early_stopping_patience = self.trainer.options.early_stopping or 1
        if state.best_global_step:
            self._find_best(state, state.best_global_step)
        self.trainer.interruptions.hold()
        if control.should_evaluate:  # the evaluation after the last step was interrupted
            self._evaluate(state)

    def _find_best(self, state: TrainerState, step: int) -> None:
        best = checkpoint_of(self.trainer.checkpoints, step)
        fault = on_first_process(lambda: fault_of(best))
        state.best_model_checkpoint = None if fault else str(best)
        if fault and self.trainer.options.best_by is not None:
            warnings.warn(f"the best model so far is lost ({fault}): the best from here on is kept", stacklevel=2)
            state.best_metric = state.best_global_step = None

    def _evaluate(self, state: TrainerState) -> None:
        measures = self.trainer._evaluate(None, None)
        if self.trainer._determine_best_metric(metrics=measures, trial=None):
            # The evaluated weights are those of the checkpoint that the run resumes from.
            best = checkpoint_of(self.trainer.checkpoints, state.global_step)
            state.best_model_checkpoint = str(best)


def stopping_of(trainer: "GloriaTrainer") -> list[EarlyStoppingCallback]:
    """Return the callbacks that may stop the run early."""
    return [each for each in trainer.callback_handler.callbacks if isinstance(each, EarlyStoppingCallback)]


def set_rates(optimizer: Any, scheduler: Any, given: list[dict[str, Any]], rate: float, ratio: float) -> None:
    """Give an optimizer the settings of the options, in place of those of a checkpoint.

    If options and checkpoint agree, no bit changes.

    Args:
        optimizer: optimizer with the state of the checkpoint.
        scheduler: scheduler with the state of the checkpoint.
        given: settings of the optimizer's groups before the checkpoint was loaded.
        rate: the highest learning rate.
        ratio: ratio of this rate to the checkpoint's.
    """
    for group, settings in zip(optimizer.param_groups, given, strict=True):
        group.update(settings)
    if isinstance(scheduler, LambdaLR):
        scheduler.base_lrs = [rate for _ in scheduler.base_lrs]
        rates = [rate * share(scheduler.last_epoch) for share in scheduler.lr_lambdas]
    else:
        rates = [group["lr"] * ratio for group in optimizer.param_groups]
    for group, value in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = value
        if "initial_lr" in group:
            group["initial_lr"] = rate
    scheduler._last_lr = rates
