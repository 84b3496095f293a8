"""A run: trains on rows of a table, resumes, and fills its folder with model, pictures and metrics."""

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
    """Where a run begins.

    checkpoint: path of the checkpoint that it goes on from, if it does.
    record: what is kept with its checkpoints.
    rate_ratio: of the learning rate to that of the checkpoint.
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
    """Train a model, evaluating it on the held-out rows after every epoch, and measure retrieval at the end.

    Whatever ends the training early (an error, Ctrl-C, a termination that Python sees) leaves a checkpoint of the last
    finished step, from which it resumes to the same bits (but for sentences that are drawn in the rest of the epoch),
    and every epoch leaves one too. Ctrl-C and a termination act when the step or the checkpoint that is being made is
    finished, and at once within an evaluation, which is made again when the run is resumed. Only an error while the
    optimizer changes the weights leaves none of its own.

    A checkpoint is used only when it is whole: its files are flushed to disk, and listed with their hashes in a
    manifest that is written last. It also keeps what the run is made of (options, number of processes, device, and a
    hash of the rows), which a resumed run must agree with.

    Under torchrun the processes train together: every image is contrasted with the reports of all. The first one alone
    writes, but for the random numbers of each, and where another ends early leaves the checkpoint, once the process
    group tells it.

    The run folder holds: the model and its processor; held_out.csv, the rows that were not trained on; metrics.json;
    loss.png; attention.png, a held-out row; checkpoints/, the last two, or the last and the best.

    Args:
        model: trained in place. With `resume`, its values are replaced by those of the checkpoint.
        processor: of that model.
        training: rows without bad ones, at least two; or shards of them, read as their own settings say, shared out
            among the processes that train.
        held_out: rows to evaluate on, at least two, of other patients.
        out: run folder; made where it does not exist.
        options: how to train.
        resume: continue from the newest whole checkpoint of the run folder; a warning names newer ones that are not.
        origin: by name, what else the run is made of, such as the encoders that the model started from; kept and
            compared as the options are. Values must be JSON.
        change: names of settings (`gloria.training.record.CHANGEABLE`) that may differ from those of the run that is
            resumed. They take effect, and metrics.json says from which step on.

    Returns:
        What metrics.json holds: options, their changes, numbers of rows, the Trainer's log, Precision@K on the
        held-out rows, and whether the model has collapsed on them (`gloria.objectives.is_collapsed`).

    Raises:
        ValueError: too few rows; another process that writes into `out`; without `resume`, a run in `out` already; with
        it, no whole checkpoint there, or one of a run with other settings or rows: all that differs is named.
        DiskFullError: no space is left; the last whole checkpoint is as it was, and the message names it.
        NonFiniteError: a loss or gradient that is NaN or infinite; it names the rows of the batch and the
        checkpoint, and is a ValueError.
    """
    out = Path(out)
    for name, count in (("training", count_rows(training)), ("held_out", len(held_out))):
        if count < 2:
            raise ValueError(f"{name} has {count} rows; expected at least two, to contrast one with another")
    check_changes(change)
    with only_run(out, options.cpu), _telling_what_is_left(out):
        start = on_first_process(
            lambda: _start(out, model, processor, RunRecord.of(training, held_out, options, origin), resume, change)
        )
        trainer = GloriaTrainer(model, processor, training, held_out, out / CHECKPOINTS, options)
        trainer.record, trainer.rate_ratio = asdict(start.record), start.rate_ratio
        if trainer.is_world_process_zero():
            remove_after(out / CHECKPOINTS, step_of(start.checkpoint) if start.checkpoint else -1)
            if start.checkpoint is None:
                with whole_files(out) as staged:
                    write_table(staged / HELD_OUT, held_out)
                    processor.save_pretrained(staged)
        trainer.accelerator.wait_for_everyone()  # no process writes into a folder that is still being put in order
        _train(trainer, out, start.checkpoint)
        model.eval()
        if trainer.is_world_process_zero():
            with whole_files(out) as staged:
                trainer.save_model(str(staged))
        return on_first_process(lambda: _finish(trainer, training, held_out, out, start.record))


@contextmanager
def _telling_what_is_left(out: Path) -> Iterator[None]:
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
            full = error if isinstance(error, DiskFullError) else _save_last_finished_step(trainer)
            if not full and not isinstance(error, NonFiniteError):
                raise
            left = last_checkpoint(out)
            if full is error:
                kept = (
                    f"go on from {left} with --resume" if left else "begin again, for there is no whole checkpoint yet"
                )
                raise DiskFullError(f"{error}; make room, and {kept}") from error
            if full:
                kept = f"the run goes on from {left}" if left else "there is no checkpoint to go on from"
                warnings.warn(f"{full}; {kept}", stacklevel=3)
                raise
            kept = f"the state before that step is in {left}" if left else "no step was finished before it"
            raise NonFiniteError(f"{error}; {kept}") from error


def count_rows(training: Sequence[Row] | ShardDataset) -> int:
    """Return the number of rows that are trained on, by all processes together."""
    return training.rows if isinstance(training, ShardDataset) else len(training)


def _save_last_finished_step(trainer: GloriaTrainer) -> DiskFullError | None:
    """Leave a checkpoint of the last finished step if there is none yet; return what kept it from doing so."""
    step, guard = trainer.state.global_step, trainer.last_finished_step
    checkpoint = checkpoint_of(trainer.checkpoints, step)
    # Where the step ended an epoch its checkpoint is there already, from before the next epoch drew its order; while
    # the optimizer was at work, the weights are those of no step.
    if not step or guard.updating or is_sealed(checkpoint, trainer.args.process_index):
        return None
    guard.return_to(trainer.gloria, trainer.args.device)
    # The one place that writes weights, optimizer, schedule, random state and position together; Trainer calls it
    # on its own at the end of an epoch only. By strategy it would wait for the other processes before it looks for
    # the best checkpoint, and without a trial ask them for their flops: they may never answer.
    trainer.args.save_strategy = SaveStrategy.NO
    try:
        trainer._save_checkpoint(trainer.gloria, trial={})
    except DiskFullError as full:
        return full
    return None


def _start(
    out: Path,
    model: GloriaModel,
    processor: GloriaProcessor,
    record: RunRecord,
    resume: bool,
    change: Sequence[str],
) -> Start:
    """Return where a run begins, if it may."""
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


def _finish(
    trainer: GloriaTrainer,
    training: Sequence[Row] | ShardDataset,
    held_out: Sequence[Row],
    out: Path,
    record: RunRecord,
) -> dict[str, Any]:
    """Write what is known at the end of a run."""
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
    # The held-out pair that the model is surest of among those with something to outline, if any have.
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
