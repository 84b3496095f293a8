"""Cell: one figure to be measured, and the JSON file that holds it under a hash of all that decides it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gloria.durable import write_json

CELLS, FAILURES = "cells", "failures"
PROTOCOL = 1  # to be raised when the same settings come to mean other figures


def kind_of(task: str) -> str:
    """Return the kind of a task: that of "segmentation-nodule" is "segmentation"."""
    return "segmentation" if task.startswith("segmentation") else task


@dataclass(frozen=True)
class Cell:
    """One system of one seed in one task, with one fraction of its labels.

    Attributes:
        system: "random", or a name of `gloria.objectives.OBJECTIVES`.
        seed: of the weights, the order, and what is drawn.
        task: a name of `gloria.reproduce.tasks.TASKS`.
        fraction: of the labels; None of a task without labels.
        settings: all else that decides the figures, as JSON has it.
        after: name of the cell that must be done before, None = none.
    """

    system: str
    seed: int
    task: str
    fraction: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)
    after: str | None = None

    @property
    def described(self) -> dict[str, Any]:
        """All that decides the figures."""
        named = {"system": self.system, "seed": self.seed, "task": self.task, "fraction": self.fraction}
        return {**named, "after": self.after, "protocol": PROTOCOL, **self.settings}

    @property
    def name(self) -> str:
        """Name of its file: readable, and with a hash of what it is described by."""
        digest = hashlib.sha256(json.dumps(self.described, sort_keys=True).encode()).hexdigest()[:12]
        labels = [] if self.fraction is None else [f"{self.fraction:g}"]
        return "_".join([self.task, self.system, str(self.seed), *labels, digest])

    @property
    def title(self) -> str:
        """How messages name it."""
        labels = "" if self.fraction is None else f", {100 * self.fraction:g} % of the labels"
        return f"{self.task} of {self.system}, seed {self.seed}{labels}"

    def is_done(self, out: Path) -> bool:
        """Return whether its figures are there."""
        return (out / CELLS / f"{self.name}.json").is_file()

    def write(self, out: Path, results: Mapping[str, Any], seconds: float) -> None:
        """Write its figures; an earlier failure is forgotten."""
        path = out / CELLS / f"{self.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"settings": self.described, "results": results, "seconds": round(seconds, 1)})
        (out / FAILURES / f"{self.name}.json").unlink(missing_ok=True)

    def write_failure(self, out: Path, reason: str) -> None:
        """Note why it has no figures."""
        path = out / FAILURES / f"{self.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"settings": self.described, "reason": reason})


def read_json(path: Path) -> dict[str, Any]:
    """Return what a JSON file holds."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def read_cells(folder: Path) -> dict[str, dict[str, Any]]:
    """Return what the JSON files of a folder hold, by the name of their cell."""
    return {path.stem: read_json(path) for path in sorted(folder.glob("*.json"))}
