"""reproduce: fills the tables of the talk, cell by cell, and writes the page of what is there."""

import os
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from gloria.durable import write_json
from gloria.lock import only_writer
from gloria.reproduce.budget import FULL, Budget
from gloria.reproduce.cells import CELLS, Cell, kind_of, read_cells, read_json
from gloria.reproduce.page import PLAN, write_page
from gloria.reproduce.published import TABLES
from gloria.reproduce.schedule import run_cells
from gloria.reproduce.suites import prepare, rows_of
from gloria.reproduce.systems import SYSTEMS, described, pretrain
from gloria.reproduce.tasks import TASKS, Given

RUNS, CACHE = "runs", "cache"
PRETRAINING = "pretraining"
IMAGENET = "the weights of ImageNet are no part of the package, and nothing is downloaded"


def reproduce(
    suite: str,
    data: str | Path | None,
    out: str | Path,
    budget: Budget = FULL,
    jobs: int = 2,
    runs: str | Path | None = None,
    tell: Callable[[str], None] = print,
) -> Path:
    """Fill the four tables of the GLoRIA talk as far as the data of a suite allow.

    Each figure is a cell with a JSON file under a hash of all that decides it. What is there is not measured again, so
    the same call goes on where an earlier one ended, and a cell that fails leaves the others.

    Args:
        suite: "phantom", "chexpert5x200", "rsna" or "siim".
        data: folder that the data set was unpacked to; None for phantoms, which are drawn.
        out: folder for cells, runs and the page; made where it does not exist.
        budget: how much work, the same for every system.
        jobs: processes of one thread each; 1 is this process, as it is.
        runs: `out` of a suite whose systems are pre-trained, for data without reports.
        tell: is told the progress, a line for each cell.

    Returns:
        The page, `out`/README.md. Beside it are index.html and the pictures.

    Raises:
        ValueError: an unknown suite, data that it does not have or lacks; `jobs` or a number of seeds below 1; `runs`
            without a pre-trained system; another process that writes into `out`.
    """
    out = Path(out)
    for name, count in (("jobs", jobs), ("seeds", budget.seeds)):
        if count < 1:
            raise ValueError(f"{name} is {count}; expected at least 1")
    with only_writer(out):
        prepared = prepare(suite, None if data is None else Path(data), out, budget)
        own = PRETRAINING in prepared["tables"]
        if runs is not None and own:
            raise ValueError(f"runs is {runs}, and the suite {suite} pre-trains its own systems; leave it out")
        pretraining = _pretraining(prepared, budget) if own else _borrowed(Path(runs)) if runs is not None else []
        cells = (pretraining if own else []) + _downstream(prepared, budget, pretraining)
        trained = asdict(budget) if own or runs is None else read_json(Path(runs) / PLAN)["budget"]
        write_json(out / PLAN, _plan(suite, prepared, asdict(budget), trained, cells))
        work = partial(measure, out=out, runs=Path(runs or out), prepared=prepared, budget=budget)
        run_cells(cells, out, jobs, work, tell)
        return write_page(out)


def measure(cell: Cell, out: Path, runs: Path, prepared: dict[str, Any], budget: Budget) -> str:
    """Measure a cell, write its figures, and return a line about them."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    with redirect_stdout(StringIO()):  # Trainer's log, of every pass
        return _measure(cell, out, runs, prepared, budget)


def _measure(cell: Cell, out: Path, runs: Path, prepared: dict[str, Any], budget: Budget) -> str:
    started = time.perf_counter()
    cache = out / CACHE / str(budget.pixels)
    rows = rows_of(out, cell.task)
    results: dict[str, Any]
    if cell.task == PRETRAINING:
        results = pretrain(cell.system, cell.seed, rows, out / RUNS / cell.name, cache, budget)
        said = "collapsed" if results["collapsed"] else "done"
    else:
        asked = rows_of(out, "zero-shot")["test"] if "zero-shot" in prepared["tables"] else []
        given = Given(
            runs / RUNS / str(cell.after),
            rows,
            asked,
            prepared["prompts"],
            cell.fraction or 0.0,
            cell.seed,
            budget,
            cache,
        )
        results = TASKS[kind_of(cell.task)](given)
        name, figure = next(iter(results["figures"].items()))
        said = f"{name} {figure:.3f}"
        results["collapsed"] = read_json(runs / CELLS / f"{cell.after}.json")["results"]["collapsed"]
    seconds = time.perf_counter() - started
    cell.write(out, results, seconds)
    return f"{said} ({seconds:.0f} s)"


def _settings(task: str, prepared: dict[str, Any], budget: Budget) -> dict[str, Any]:
    """Return what decides the figures of a task, beside the system, its seed and the fraction of the labels."""
    tables = {task, "zero-shot"} if task == "classification" else {task}  # thresholds are applied to its rows
    data = {name: prepared["tables"][name]["sha256"] for name in sorted(tables) if name in prepared["tables"]}
    prompts = {"prompts": prepared["prompts"]} if task == "zero-shot" else {}
    steps = {"mask_steps": budget.mask_steps} if kind_of(task) == "segmentation" else {}
    return {"data": data, **prompts, **steps}


def _pretraining(prepared: dict[str, Any], budget: Budget) -> list[Cell]:
    settings, rows = _settings(PRETRAINING, prepared, budget), prepared["tables"][PRETRAINING]["training"]
    return [
        Cell(system, seed, PRETRAINING, None, {**settings, **described(system, budget, rows)})
        for seed in range(budget.seeds)
        for system in SYSTEMS
    ]


def _borrowed(runs: Path) -> list[Cell]:
    """Return the pre-training cells of another suite."""
    named = ("system", "seed", "task", "fraction", "after", "protocol")
    cells = []
    for found in read_cells(runs / CELLS).values():
        described = found["settings"]
        if described["task"] == PRETRAINING:
            settings = {name: value for name, value in described.items() if name not in named}
            cells.append(Cell(described["system"], described["seed"], PRETRAINING, None, settings))
    if not cells:
        raise ValueError(
            f"{runs} has no pre-trained system; expected the OUT of `gloria reproduce --suite phantom`, say"
        )
    return cells


def _downstream(prepared: dict[str, Any], budget: Budget, pretrained: Sequence[Cell]) -> list[Cell]:
    """Return a cell for every entry of the talk's tables that there are data for, the first seed of all first."""
    cells = []
    for before in sorted(pretrained, key=lambda cell: cell.seed):
        for table in TABLES:
            if table.task not in prepared["tables"] or before.system not in table.systems:
                continue
            settings = _settings(table.task, prepared, budget)
            cells += [
                Cell(before.system, before.seed, table.task, fraction, settings, before.name)
                for fraction in table.fractions(budget, prepared["mask_fractions"])
            ]
    return cells


def _plan(
    suite: str, prepared: dict[str, Any], budget: dict[str, Any], trained: dict[str, Any], cells: Sequence[Cell]
) -> dict[str, Any]:
    """Return what the page says beside the figures: what was to be run, on what, and what was not, with the reason.

    Args:
        suite: its name.
        prepared: its data.
        budget: of this suite.
        trained: budget of the suite whose systems these are.
        cells: to be run.
    """
    planned, without = {cell.task for cell in cells}, prepared["not_run"]
    not_run = []
    for table in TABLES:
        if table.task not in planned:
            reason = without.get(kind_of(table.task)) or without.get(PRETRAINING) or "none of its systems is there"
            not_run.append({"task": table.task, "system": None, "reason": reason})
        else:
            unknown = [name for name in table.systems if name not in SYSTEMS]
            not_run += [{"task": table.task, "system": name, "reason": IMAGENET} for name in unknown]
    return {
        "suite": suite,
        "source": prepared["source"],
        "budget": budget | {name: trained[name] for name in ("pixels", "steps", "batch_size", "learning_rate")},
        "machine": {"cpu": _processor(), "cores": os.cpu_count(), "torch": torch.__version__},
        "cells": [{"name": cell.name, "title": cell.title} for cell in cells],
        "not_run": not_run,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
