"""Trains on rows of a table, resumes, and writes model, pictures and metrics into the run folder."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from transformers.trainer_utils import SaveStrategy

from gloria.attention import attention_figure, loss_figure, save_figure
from gloria.configuration import GloriaConfig
from gloria.data import Row, ShardDataset, write_table
from gloria.durable import DiskFullError, whole_files, write_json
from gloria.fingerprint import config_fingerprint, preprocessing_fingerprint
from gloria.messages import counted
from gloria.modeling import GloriaModel
from gloria.objectives import is_collapsed
from gloria.processing import GloriaProcessor
from gloria.retrieval import precision_table, similarities
from gloria.training.checkpoints import (
    CHECKPOINTS,
    RECORD,
    checkpoint_of,
    find_checkpoint,
    holds_checkpoints,
    is_sealed,
    last_checkpoint,
    remove_after,
    step_of,
)
from gloria.training.options import DEFAULTS, TrainingOptions
from gloria.training.processes import on_first_process, only_run
from gloria.training.record import RunRecord, check_changes
from gloria.training.steps import NonFiniteError
from gloria.training.trainer import GloriaTrainer

HELD_OUT = "held_out.csv"
METRICS = "metrics.json"


class Start(NamedTuple):
    """Describes the start of a run.

    checkpoint: path of the checkpoint to resume from, None for a new run.
    record: record to save with every checkpoint.
    rate_ratio: ratio of the learning rate to the checkpoint's.
    """

    checkpoint: str | None
    record: RunRecord
    rate_ratio: float


def train(
    model: GloriaModel,
    processor: GloriaProcessor,
    training: Sequence[Row] | ShardDataset,
    held_out: Sequence[Row],
    out: str | Path,
    options: TrainingOptions = DEFAULTS,
    resume: bool = False,
    origin: Mapping[str, Any] = MappingProxyType({}),
    change: Sequence[str] = (),
) -> dict[str, Any]:
    """Train a model, evaluate it on the held-out rows after every epoch, and measure retrieval at the end.

    Every epoch leaves a checkpoint. An error, Ctrl-C, or a termination that Python sees leaves a checkpoint of the last
    finished step, from which the run resumes to the same bits (except for sentences drawn in the rest of the epoch).
    Ctrl-C and a termination act when the current step or checkpoint is finished, and at once during an evaluation,
    which a resumed run repeats. Only an error while the optimizer changes the weights leaves no new checkpoint.

    A checkpoint is used only if it is complete: its files are flushed to disk, and listed with their hashes in a
    manifest that is written last. It also records the run's options, number of processes, device and a hash of
    the rows, with which a resumed run must agree.

    Under torchrun the processes train together: every image is contrasted with the reports of all. The first process
    writes everything except the other processes' random states. If another process ends early, the first one leaves the
    checkpoint, once the process group tells it.

    The run folder holds: the model and its processor; held_out.csv, the held-out rows; metrics.json; loss.png;
    attention.png of a held-out row; and checkpoints/, the last two, or the last and the best.

    Args:
        model: trained in place. With `resume`, the checkpoint's weights replace its own.
        processor: processor of that model.
        training: at least two good rows; or shards of them, which have their own settings and are divided among the
            processes.
        held_out: rows to evaluate on, at least two, of other patients.
        out: run folder; created if it is missing.
        options: options of training.
        resume: continue from the newest complete checkpoint of the run folder; a warning names newer incomplete ones.
        origin: by name, what else determines the run, such as the encoders that the model started from; saved and
            compared like the options. Values must be JSON.
        change: names of settings (`gloria.training.record.CHANGEABLE`) that may differ from the resumed run's. They
            take effect, and metrics.json says from which step on.

    Returns:
        The content of metrics.json: options, their changes, numbers of rows, the Trainer's log, Precision@K on the
        held-out rows, and whether the model has collapsed on them (`gloria.objectives.is_collapsed`).

    Raises:
        ValueError: too few rows; another process that writes into `out`; without `resume`, a run in `out`; with it, no
            complete checkpoint, or one with other settings or rows: the message names all differences.
        DiskFullError: no space is left; the last complete checkpoint is unchanged, and the message names it.
        NonFiniteError: a loss or gradient that is NaN or infinite; the message names the rows of the batch and the
            checkpoint. It is a ValueError.
    """
    out = Path(out)
    for name, count in (("training", count_rows(training)), ("held_out", len(held_out))):
        if count < 2:
            raise ValueError(f"{name} has {counted(count, 'row')}; expected at least two, to contrast one with another")
    check_changes(change)
    with only_run(out, options.cpu), _advise_on_full_disk(out):
        start = on_first_process(
            lambda: _starting_point(
                out, model, processor, RunRecord.of(training, held_out, options, origin), resume, change
            )
        )
        trainer = GloriaTrainer(model, processor, training, held_out, out / CHECKPOINTS, options)
        trainer.record, trainer.rate_ratio = asdict(start.record), start.rate_ratio
        if trainer.is_world_process_zero():
            remove_after(out / CHECKPOINTS, step_of(start.checkpoint) if start.checkpoint else -1)
            if start.checkpoint is None:
                with whole_files(out) as staged:
                    write_table(staged / HELD_OUT, held_out)
                    processor.save_pretrained(staged)
        trainer.accelerator.wait_for_everyone()  # no process writes into the folder before it is ready
        _train(trainer, out, start.checkpoint)
        model.eval()
        if trainer.is_world_process_zero():
            with whole_files(out) as staged:
                trainer.save_model(str(staged))
        return on_first_process(lambda: _write_results(trainer, training, held_out, out, start.record))


@contextmanager
def _advise_on_full_disk(out: Path) -> Iterator[None]:
    try:
        yield
    except DiskFullError as error:
        left = last_checkpoint(out)
        kept = f"go on from {left} with --resume" if left else "begin again, there is no checkpoint yet"
        raise DiskFullError(f"{error}; make room, and {kept}") from error


def _train(trainer: GloriaTrainer, out: Path, checkpoint: str | None) -> None:
    """Train to the end, or leave a checkpoint of the last finished step."""
    with trainer.interruptions:
        try:
            trainer.train(resume_from_checkpoint=checkpoint)
        except BaseException as error:
            trainer.interruptions.hold()
            full = None if isinstance(error, DiskFullError) else _save_last_finished_step(trainer)
            if full:
                left = last_checkpoint(out)
                kept = f"the run goes on from {left}" if left else "there is no checkpoint to go on from"
                warnings.warn(f"{full}; {kept}", stacklevel=3)
            elif isinstance(error, NonFiniteError):
                left = last_checkpoint(out)
                kept = f"the state before that step is in {left}" if left else "no step was finished before it"
                raise NonFiniteError(f"{error}; {kept}") from error
            raise


def count_rows(training: Sequence[Row] | ShardDataset) -> int:
    """Return the number of rows that all processes together train on."""
    return training.rows if isinstance(training, ShardDataset) else len(training)


def _save_last_finished_step(trainer: GloriaTrainer) -> DiskFullError | None:
    """Save a checkpoint of the last finished step if there is none yet; return the error if the disk is full."""
    step, guard = trainer.state.global_step, trainer.last_finished_step
    checkpoint = checkpoint_of(trainer.checkpoints, step)
    # A step that ended an epoch has its checkpoint, from before the next epoch drew its order. While the optimizer
    # updates the weights, they belong to no step.
    if not step or guard.updating or is_sealed(checkpoint, trainer.args.process_index):
        return None
    guard.return_to(trainer.gloria, trainer.args.device)
    # This method alone writes weights, optimizer, schedule, random state and position together; Trainer itself calls
    # it only at the end of an epoch. With a save strategy it would wait for the other processes before it looks for
    # the best checkpoint, and without a trial ask them for their flops: they may never answer.
    trainer.args.save_strategy = SaveStrategy.NO
    try:
        trainer._save_checkpoint(trainer.gloria, trial={})
    except DiskFullError as full:
        return full
    return None


def _starting_point(
    out: Path,
    model: GloriaModel,
    processor: GloriaProcessor,
    record: RunRecord,
    resume: bool,
    change: Sequence[str],
) -> Start:
    """Check that a run may begin here, and return its start."""
    folder = out / CHECKPOINTS
    if not resume:
        if change:
            raise ValueError(f"change names {', '.join(change)} of a run that begins; expected it with --resume alone")
        if holds_checkpoints(folder) or (out / METRICS).exists():
            raise ValueError(f"{out} already holds a run; resume it (--resume), or name another folder")
        return Start(None, record, 1.0)
    checkpoint, faults = find_checkpoint(folder)
    if checkpoint is None and faults:
        raise ValueError(
            f"{out} holds no whole checkpoint to resume from ({'; '.join(faults)}); remove {folder} and train without "
            "--resume"
        )
    if checkpoint is None:
        raise ValueError(f"{out} holds no checkpoint to resume from; train without --resume")
    step = step_of(checkpoint)
    earlier = RunRecord.read(checkpoint / RECORD)
    try:
        record = record.going_on_from(earlier, step, change)
    except ValueError as error:
        raise ValueError(f"{out} cannot be resumed: {error}") from None
    settings = GloriaConfig.from_pretrained(checkpoint, local_files_only=True)
    if config_fingerprint(settings) != config_fingerprint(model.config):
        raise ValueError(f"the model has other settings than that of {checkpoint}; give one that is loaded from it")
    if preprocessing_fingerprint(GloriaProcessor.from_pretrained(out)) != preprocessing_fingerprint(processor):
        raise ValueError(f"the processor has other settings than that of the run in {out}; give one loaded from it")
    if faults:
        warnings.warn(f"resuming from {checkpoint}; passed over: {'; '.join(faults)}", stacklevel=4)
    return Start(str(checkpoint), record, record.settings["learning_rate"] / earlier.settings["learning_rate"])


def _write_results(
    trainer: GloriaTrainer,
    training: Sequence[Row] | ShardDataset,
    held_out: Sequence[Row],
    out: Path,
    record: RunRecord,
) -> dict[str, Any]:
    """Write metrics and pictures at the end of a run."""
    model, processor, options, history = trainer.gloria, trainer.processor, trainer.options, trainer.state.log_history
    images, reports = [row.image for row in held_out], [row.report for row in held_out]
    found = similarities(model, processor, images, reports, options.encoded_at_once, options.progress)
    metrics = {
        "options": asdict(options),
        "changes": list(record.changes),
        "training_rows": count_rows(training),
        "held_out_rows": len(held_out),
        "precision": precision_table(found, held_out, options.ks),
        "collapsed": is_collapsed(found.of_global, model.config),
        "log": history,
    }
    # The held-out pair that the model is surest of, among those with a mask if there are any.
    surest = torch.diagonal(found.of_local).tolist()
    masked = [index for index, row in enumerate(held_out) if row.mask] or range(len(held_out))
    chosen = held_out[max(masked, key=lambda index: surest[index])]
    figure = attention_figure(
        model, processor, chosen.image, chosen.report, chosen.mask, title=f"Held out: {Path(str(chosen.image)).name}"
    )
    with whole_files(out) as staged:
        save_figure(loss_figure(history), staged / "loss.png")
        save_figure(figure, staged / "attention.png")
        write_json(staged / METRICS, metrics, indent=2)
    return metrics
