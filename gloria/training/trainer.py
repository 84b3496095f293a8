"""GloriaTrainer: transformers.Trainer by TrainingOptions, with retrieval in its log, stopped by NaN and infinity."""

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import prepare_data_loader
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import EarlyStoppingCallback, Trainer, TrainingArguments, set_seed
from transformers.trainer_utils import EvalLoopOutput

from gloria.data import Row, ShardDataset, TableDataset
from gloria.data.reports import UNDRAWN, Text
from gloria.durable import whole_or_gone, write_json
from gloria.modeling import GloriaModel
from gloria.processing import GloriaProcessor
from gloria.training.checkpoints import RECORD, checkpoint_of, keep_newest, seal
from gloria.training.collator import PairCollator
from gloria.training.evaluation import evenly_spaced, measure_names, retrieval_measures
from gloria.training.interruptions import Interruptions
from gloria.training.options import TrainingOptions
from gloria.training.processes import highest_of_all, on_first_process
from gloria.training.resuming import Resuming, set_rates, stopping_of
from gloria.training.steps import LastFinishedStep, random_state, set_random_state

PLATEAU = {"factor": 0.5, "patience": 5}  # released


class GloriaTrainer(Trainer):
    """Trains a `GloriaModel` on rows of a table; under torchrun, each process has its own batch.

    Args:
        model: trained in place; frozen encoders get no gradients, now and later.
        processor: processor of that model.
        training: rows to train on, or this process's shards of them.
        held_out: rows to evaluate on.
        checkpoints: folder for checkpoints and reports.
        options: options of training.

    Attributes:
        checkpoints: folder for checkpoints and reports.
        record: record to save with every checkpoint, in run.json.
        rate_ratio: ratio of the learning rate to the resumed checkpoint's.
        interruptions: once entered, it delays Ctrl-C and terminations until a step or checkpoint is finished.

    Raises:
        ValueError: fewer rows than processes; shards divided among another number of processes; a `best_by` that an
            evaluation of these rows does not measure.
    """

    def __init__(
        self,
        model: GloriaModel,
        processor: GloriaProcessor,
        training: Sequence[Row] | ShardDataset,
        held_out: Sequence[Row],
        checkpoints: Path,
        options: TrainingOptions,
    ) -> None:
        self.options, self.processor, self.ranked = options, processor, evenly_spaced(held_out, options.retrieval_rows)
        self.last_finished_step, self.interruptions = LastFinishedStep(), Interruptions()
        self.checkpoints, self.record = checkpoints, dict[str, Any]()
        self.rate_ratio = 1.0
        known = ["loss", *measure_names(len(self.ranked), options.ks)]
        if options.best_by not in (None, *known):
            raise ValueError(f"best_by is {options.best_by!r}; expected one of {', '.join(known)}")
        self.gloria = model
        model.micro_batch_size = options.micro_batch_size
        self.frozen = [
            encoder
            for encoder, frozen in (
                (model.image_encoder, options.freeze_image_encoder),
                (model.text_encoder, options.freeze_text_encoder),
            )
            if frozen
        ]
        for encoder in self.frozen:
            encoder.requires_grad_(False)
        set_seed(options.seed)
        arguments = _training_arguments(options, training, held_out, checkpoints)
        optimizer = None
        if options.optimizer == "adam":
            optimizer = (torch.optim.Adam, {"lr": options.learning_rate, "betas": (options.beta1, 0.999)})
        stopping = [EarlyStoppingCallback(options.early_stopping)] if options.early_stopping else []
        super().__init__(
            model=model,
            args=arguments,
            data_collator=PairCollator(processor, lines=True),
            train_dataset=training if isinstance(training, ShardDataset) else self._dataset(training, options.text),
            # Evaluations read all sentences: drawn sentences would make each evaluation a different one.
            eval_dataset=self._dataset(held_out, UNDRAWN.get(options.text, options.text)),
            callbacks=[self.last_finished_step, *stopping],
            optimizer_cls_and_kwargs=optimizer,
        )
        self.add_callback(Resuming(self))

    def _dataset(self, rows: Sequence[Row], text: Text) -> TableDataset:
        given = self.options
        return TableDataset(rows, self.processor, text, given.group_equal_reports, given.bad_files, given.cache)

    def get_train_dataloader(self) -> DataLoader:
        """Return the batches of this process: Trainer divides rows; shards are divided already."""
        if not isinstance(self.train_dataset, ShardDataset):
            return super().get_train_dataloader()
        batches: DataLoader = DataLoader(
            self.train_dataset,
            batch_size=self.args.per_device_train_batch_size,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            drop_last=self.args.dataloader_drop_last,
        )
        # As a single process: it only has to set the shards' epoch, and to skip the batches before a resumed step.
        return prepare_data_loader(
            batches, self.args.device, num_processes=1, process_index=0, put_on_device=True, dispatch_batches=False
        )

    def get_decay_parameter_names(self, model: torch.nn.Module) -> list[str]:
        """Return the names of the parameters that decay: no logarithm of a scale, which would decay to a scale of 1."""
        return [name for name in super().get_decay_parameter_names(model) if not name.endswith(".log_scale")]

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """Return the next batch; a run can be interrupted here, all processes at the same step."""
        if self.args.world_size == 1:
            with self.interruptions.let_through():
                return super().get_batch_samples(*args, **kwargs)
        signal = highest_of_all(self.interruptions.pending)
        if signal:
            self.interruptions.act(signal)
        return super().get_batch_samples(*args, **kwargs)

    def compute_loss(self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Return the loss, and check it while training."""
        lines = inputs.pop("lines")
        for encoder in self.frozen:
            encoder.eval()  # Trainer has just put the whole model in training mode
        # By the step, so that a resumed run knows too; an evaluation is always by the loss that the run ends with.
        begun = self.state.global_step >= self.options.all_negatives * self.state.max_steps
        self.gloria.hardest_negatives = begun or not self.gloria.training
        computed = super().compute_loss(model, inputs, *args, **kwargs)
        if isinstance(computed, Tensor):  # training; an evaluation asks for the outputs too
            self.last_finished_step.lines = lines.tolist()
            self.last_finished_step.check(computed, "loss", self.state)
        return computed

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """Return the loss of the held-out rows and their retrieval measures; the random state stays unchanged.

        A run can be interrupted here; a resumed run repeats the evaluation.
        """
        before = random_state(self.args.device)
        try:
            with self.interruptions.let_through():
                return self._loss_and_retrieval(*args, **kwargs)
        finally:
            set_random_state(before, self.args.device)

    def _loss_and_retrieval(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        output = super().evaluation_loop(*args, **kwargs)
        if not self.ranked:
            return output
        # Every process gets the same figures: all must stop early, or lower the rate, at the same time.
        measures = on_first_process(
            lambda: retrieval_measures(
                self.gloria, self.processor, self.ranked, self.options.ks, self.options.encoded_at_once
            )
        )
        named = {f"eval_{name}": value for name, value in measures.items()}
        return output._replace(metrics={**(output.metrics or {}), **named})

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        # A run may resume from the evaluation that stopped it early.
        if any(each.early_stopping_patience_counter >= each.early_stopping_patience for each in stopping_of(self)):
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        checkpoint, first = checkpoint_of(self.checkpoints, self.state.global_step), self.is_world_process_zero()
        with whole_or_gone(checkpoint) if first else nullcontext():
            super()._save_checkpoint(model, trial)
            if first:
                write_json(checkpoint / RECORD, self.record)
            seal(checkpoint, self.args.process_index, self.args.world_size)
        if first:
            keep_newest(self.checkpoints, self.state.best_model_checkpoint)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        optimizer: Any = self.optimizer
        given = [{name: group[name] for name in ("betas", "weight_decay")} for group in optimizer.param_groups]
        super()._load_optimizer_and_scheduler(checkpoint)
        set_rates(optimizer, self.lr_scheduler, given, self.options.learning_rate, self.rate_ratio)


def _training_arguments(
    options: TrainingOptions, training: Sequence[Row] | ShardDataset, held_out: Sequence[Row], checkpoints: Path
) -> TrainingArguments:
    linear = options.schedule == "linear"
    measured = "loss" if options.early_stopping or not linear else None
    plateau = PLATEAU | {"mode": "min" if options.best_by in (None, "loss") else "max"}
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        num_train_epochs=options.epochs,
        dataloader_drop_last=True,  # the loss depends on the number of negatives, the same in every batch
        dataloader_num_workers=options.workers,
        learning_rate=options.learning_rate,
        adam_beta1=options.beta1,
        weight_decay=options.weight_decay,
        max_grad_norm=options.max_grad_norm,
        lr_scheduler_type="linear" if linear else "reduce_lr_on_plateau",
        lr_scheduler_kwargs=None if linear else plateau,
        warmup_steps=0.1 if linear else 0,  # a share of all steps
        logging_strategy="epoch",
        eval_strategy="epoch",
        save_strategy="epoch",
        metric_for_best_model=options.best_by or measured,
        load_best_model_at_end=options.best_by is not None,
        restore_callback_states_from_checkpoint=True,  # the counter of early stopping
        prediction_loss_only=True,
        remove_unused_columns=False,
        label_names=[],
        report_to=list(options.report_to),
        bf16=options.bf16,
        use_cpu=options.cpu,
        dataloader_pin_memory=torch.cuda.is_available() and not options.cpu,
        disable_tqdm=not (options.progress and sys.stderr.isatty()),
        seed=options.seed,
    )
    world, per_process = arguments.world_size, len(training) // arguments.world_size
    if isinstance(training, ShardDataset):
        if training.ranks != world:
            raise ValueError(
                f"training is shared out among {training.ranks} processes; expected the {world} that train"
            )
        per_process = len(training) // max(1, options.workers)  # each worker makes batches of its share
    for name, rows, share in (("training", training, per_process), ("held_out", held_out, len(held_out) // world)):
        if not share:
            raise ValueError(f"{name} has {len(rows)} rows for {world} processes; expected at least one for each")
    arguments.per_device_train_batch_size = min(options.batch_size, per_process)
    arguments.per_device_eval_batch_size = min(options.batch_size, len(held_out) // world)
    return arguments
