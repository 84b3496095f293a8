"""A run: trains on rows of a table, resumes, and fills its folder with model, pictures and metrics."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import SaveStrategy

from gloria.attention import attention_figure, loss_figure, save
from gloria.data import Row, ShardDataset, read_table, write_table
from gloria.modelling import GloriaModel
from gloria.processing import GloriaProcessor
from gloria.retrieval import precision_table, similarities
from gloria.training.options import DEFAULTS, TrainingOptions
from gloria.training.processes import on_first_process
from gloria.training.steps import NonFiniteError
from gloria.training.trainer import GloriaTrainer

CHECKPOINTS = "checkpoints"
HELD_OUT = "held_out.csv"
METRICS = "metrics.json"


def train(
    model: GloriaModel,
    processor: GloriaProcessor,
    training: Sequence[Row] | ShardDataset,
    held_out: Sequence[Row],
    out: str | Path,
    options: TrainingOptions = DEFAULTS,
    resume: bool = False,
) -> dict[str, Any]:
    """Trains a model, evaluating it on the held-out rows after every epoch, and measures retrieval at the end.

    Whatever ends the training early (an error, Ctrl-C, a termination that Python sees) leaves a checkpoint of the last
    finished step, from which it resumes to the same bits, and every epoch leaves one too. Only an interrupt while the
    optimiser changes the weights leaves none of its own.

    Under torchrun the processes train together: every image is contrasted with the reports of all. The first one alone
    writes, and where another ends early leaves the checkpoint, once the process group tells it.

    The run folder holds: the model and its processor; held_out.csv, the rows that were not trained on; metrics.json;
    loss.png; attention.png, a held-out row; checkpoints/, the last two, or the last and the best.

    Args:
        model: trained in place. With `resume`, its values are replaced by those of the checkpoint.
        processor: of that model.
        training: rows without bad ones, two at least; or shards of them, read as their own settings say, shared out
            among the processes that train.
        held_out: rows to evaluate on, two at least, of other patients.
        out: run folder; made where it does not exist.
        options: how to train.
        resume: continue from the last checkpoint of the run folder.

    Returns:
        What metrics.json holds: options, numbers of rows, the Trainer's log, and Precision@K on the held-out rows.

    Raises:
        ValueError: too few rows; without `resume`, a run in `out` already; with it, none there, or one of other
        held-out rows.
        NonFiniteError: a loss or gradient that is infinite or no number; it names the rows of the batch and the
        checkpoint, and is a ValueError.
    """
    out = Path(out)
    for name, count in (("training", count_rows(training)), ("held_out", len(held_out))):
        if count < 2:
            raise ValueError(f"{name} has {count} rows; expected two at least, to contrast one with another")
    checkpoint = _checkpoint(out, held_out, resume)
    trainer = GloriaTrainer(model, processor, training, held_out, out / CHECKPOINTS, options)
    trainer.accelerator.wait_for_everyone()  # all have looked at the folder before anything is written
    if trainer.is_world_process_zero():
        out.mkdir(parents=True, exist_ok=True)
        write_table(out / HELD_OUT, held_out)
        processor.save_pretrained(out)
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except BaseException as error:
        _save_last_finished_step(trainer, out)
        if isinstance(error, NonFiniteError):
            left = last_checkpoint(out)
            kept = f"the state before that step is in {left}" if left else "no step was finished before it"
            raise NonFiniteError(f"{error}; {kept}") from error
        raise
    model.eval()
    trainer.save_model(str(out))
    history = trainer.state.log_history
    return on_first_process(lambda: _finish(model, processor, training, held_out, out, options, history))


def count_rows(training: Sequence[Row] | ShardDataset) -> int:
    """Rows that are trained on, by all processes together."""
    return training.rows if isinstance(training, ShardDataset) else len(training)


def last_checkpoint(out: str | Path) -> str | None:
    """Path of the last checkpoint of a run folder that was written to its end, None where there is none."""
    complete = [path for path in (Path(out) / CHECKPOINTS).glob("checkpoint-*") if _complete(path)]
    return str(max(complete, key=lambda path: int(path.name.rsplit("-", 1)[1]))) if complete else None


def _save_last_finished_step(trainer: GloriaTrainer, out: Path) -> None:
    step, guard = trainer.state.global_step, trainer.last_finished_step
    # Where the step ended an epoch its checkpoint is there already, from before the next epoch drew its order; while
    # the optimiser was at work, the weights are those of no step.
    if step and not guard.updating and not _complete(out / CHECKPOINTS / f"checkpoint-{step}"):
        guard.return_to(trainer.gloria, trainer.args.device)
        # The one place that writes weights, optimiser, schedule, random state and position together; Trainer calls it
        # on its own at the end of an epoch only. By strategy it would wait for the other processes before it looks for
        # the best checkpoint, and without a trial ask them for their flops: they may never answer.
        trainer.args.save_strategy = SaveStrategy.NO
        trainer._save_checkpoint(trainer.gloria, trial={})


def _complete(checkpoint: Path) -> bool:
    # The state is what Trainer writes last: a run that is killed while it saves leaves a checkpoint without.
    return (checkpoint / TRAINER_STATE_NAME).exists()


def _checkpoint(out: Path, held_out: Sequence[Row], resume: bool) -> str | None:
    checkpoint = last_checkpoint(out)
    if not resume:
        if checkpoint or (out / METRICS).exists():
            raise ValueError(f"{out} holds a run already; resume it (--resume), or name another folder")
        return None
    if checkpoint is None:
        raise ValueError(f"{out} holds no checkpoint to resume from; train without --resume")
    earlier = {row.image for row in read_table(out / HELD_OUT)}
    if earlier != {row.image.absolute() for row in held_out if row.image}:
        raise ValueError(
            f"the held-out rows are not those of the run in {out}, so it would be evaluated on what it was trained on; "
            "resume with the same table, share of held-out patients and seed"
        )
    return checkpoint


def _finish(
    model: GloriaModel,
    processor: GloriaProcessor,
    training: Sequence[Row] | ShardDataset,
    held_out: Sequence[Row],
    out: Path,
    options: TrainingOptions,
    history: list[dict[str, float]],
) -> dict[str, Any]:
    """Writes what is known at the end of a run."""
    images, reports = [row.image for row in held_out], [row.report for row in held_out]
    found = similarities(model, processor, images, reports, options.encoded_at_once, options.progress)
    metrics = {
        "options": asdict(options),
        "training_rows": count_rows(training),
        "held_out_rows": len(held_out),
        "precision": precision_table(found, held_out, options.ks),
        "log": history,
    }
    (out / METRICS).write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    save(loss_figure(history), out / "loss.png")
    # The held-out pair that the model is surest of among those with something to outline, if any have.
    surest = torch.diagonal(found.of_local).tolist()
    masked = [index for index, row in enumerate(held_out) if row.mask] or range(len(held_out))
    chosen = held_out[max(masked, key=lambda index: surest[index])]
    figure = attention_figure(
        model, processor, chosen.image, chosen.report, chosen.mask, title=f"Held out: {Path(str(chosen.image)).name}"
    )
    save(figure, out / "attention.png")
    return metrics
