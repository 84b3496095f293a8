"""Systems: the objectives that are pre-trained alike, and the same model with random weights."""

import math
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from gloria.data import Row
from gloria.objectives import OBJECTIVES, OPTIONS, objective_fields
from gloria.reproduce.budget import Budget
from gloria.small import small_model
from gloria.training import TrainingOptions, last_checkpoint, train
from gloria.training.checkpoints import CHECKPOINTS
from gloria.training.record import NOT_COMPARED

RANDOM = "random"
SYSTEMS = (RANDOM, *OBJECTIVES)
HELD_OUT = 64  # rows that pre-training is evaluated on


def pretrain(
    system: str, seed: int, parts: dict[str, list[Row]], folder: Path, cache: Path, budget: Budget
) -> dict[str, Any]:
    """Pre-train a system into a run folder, or go on where it was interrupted; of "random", save the new weights.

    Args:
        system: one of `SYSTEMS`.
        seed: of the weights and the order.
        parts: rows to train on, and "validation" rows.
        folder: of the run.
        cache: folder of decoded images.
        budget: the same for all.

    Returns:
        "collapsed", see `gloria.objectives.is_collapsed`, and "held_out_loss", None of random weights.
    """
    fields = _fields(system)
    reports = [row.report for row in parts["train"]]
    model, processor = small_model(reports, seed, budget.pixels, **fields)
    held_out = parts["validation"][:HELD_OUT]
    if system == RANDOM:
        folder.mkdir(parents=True, exist_ok=True)
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        return {"collapsed": False, "held_out_loss": None}
    resumed = last_checkpoint(folder) is not None
    if not resumed:
        shutil.rmtree(folder, ignore_errors=True)
    options = replace(_options(system, budget, len(reports)), cache=str(cache), seed=seed)
    metrics = train(model, processor, parts["train"], held_out, folder, options, resume=resumed)
    shutil.rmtree(folder / CHECKPOINTS)
    losses = [entry["eval_loss"] for entry in metrics["log"] if "eval_loss" in entry]
    return {"collapsed": metrics["collapsed"], "held_out_loss": losses[-1]}


def described(system: str, budget: Budget, rows: int) -> dict[str, Any]:
    """Return what decides a pre-trained system, beside the seed and the data of so many rows."""
    fields = {"pixels": budget.pixels, "objective": _fields(system)}
    if system == RANDOM:
        return fields
    options = asdict(_options(system, budget, rows)).items()
    return fields | {"training": {name: value for name, value in options if name not in (*NOT_COMPARED, "seed")}}


def _fields(system: str) -> dict[str, Any]:
    return {} if system == RANDOM else objective_fields(system)


def _options(system: str, budget: Budget, rows: int) -> TrainingOptions:
    return TrainingOptions(
        epochs=math.ceil(budget.steps / max(1, rows // budget.batch_size)),
        batch_size=budget.batch_size,
        learning_rate=budget.learning_rate,
        retrieval_rows=0,
        cpu=True,
        progress=False,
        **OPTIONS.get(system, {}),
    )
