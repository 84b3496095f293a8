"""The tables of the page, made from the JSON files alone: means and deviations over seeds, and what is no figure."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from gloria.reproduce.published import TABLES, Table

Results = Mapping[str, Any]
NAMES = {
    "dice_of_positives": "Dice of positives",
    "empties_right": "empties right",
    "released_mixture": "released mixture",
}


@dataclass(frozen=True)
class Figure:
    """One figure, over seeds.

    Attributes:
        values: of each seed, in [0, 1]; none of a seed that collapsed.
        seeds: that were run.
        collapsed: seeds that collapsed.
    """

    values: tuple[float, ...]
    seeds: int
    collapsed: int

    @property
    def percent(self) -> float | None:
        """Mean over the seeds in percent, None where a seed collapsed or nothing was measured."""
        return 100 * mean(self.values) if self.values and not self.collapsed else None

    @property
    def deviation(self) -> float | None:
        """Standard deviation over the seeds in percent, None of fewer than two."""
        return 100 * stdev(self.values) if len(self.values) > 1 and not self.collapsed else None

    @property
    def text(self) -> str:
        """In percent: mean and standard deviation; what is no figure says so."""
        if self.collapsed:
            return f"collapsed ({self.collapsed} of {self.seeds})"
        if self.percent is None:
            return "–"
        return f"{self.percent:.1f}" + ("" if self.deviation is None else f" ± {self.deviation:.1f}")


@dataclass(frozen=True)
class Line:
    """One row of a table.

    Attributes:
        system: its name.
        fraction: of the labels, None of a task without labels.
        labels: how many these are.
        figures: by metric.
    """

    system: str
    fraction: float | None
    labels: int
    figures: Mapping[str, Figure]


@dataclass(frozen=True)
class Filled:
    """One table with figures.

    Attributes:
        table: what it compares.
        lines: its rows.
        chance: figures of an answer that knows nothing, by metric, in [0, 1].
        classes: that its means are over; none of a task without classes.
    """

    table: Table
    lines: Sequence[Line]
    chance: Mapping[str, float]
    classes: Sequence[str]


def filled_tables(cells: Mapping[str, Results]) -> list[Filled]:
    """Return the tables that have at least one figure.

    Args:
        cells: what the JSON files hold, by the name of their cell.
    """
    of: dict[tuple[str, str, float | None], list[Results]] = defaultdict(list)
    for each in cells.values():
        settings = each["settings"]
        of[settings["task"], settings["system"], settings["fraction"]].append(each["results"])
    found = []
    for table in TABLES:
        lines = _lines(of, table.task, table.systems, table.metrics)
        if lines:
            first = next(results[0] for (task, *_), results in of.items() if task == table.task)
            classes = first.get("of") or first.get("draws", [{}])[0].get("auroc", {}).get("macro_of", [])
            if table.beside:
                lines += _lines(of, table.beside["task"], table.beside["systems"], table.metrics)
            found.append(Filled(table, lines, _by_metric(first.get("chance"), table.metrics), classes))
    return found


def _lines(
    of: Mapping[tuple[str, str, float | None], list[Results]], task: str, systems: Sequence[str], metrics: Sequence[str]
) -> list[Line]:
    lines = []
    for system in systems:
        fractions = [fraction for *named, fraction in of if named == [task, system]]
        for fraction in sorted(fractions, key=lambda each: each or 0):
            results = of[task, system, fraction]
            figures = {metric: _figure(results, metric) for metric in metrics if metric in results[0]["figures"]}
            if figures:
                lines.append(Line(system, fraction, results[0].get("labels", 0), figures))
    return lines


def _figure(results: Sequence[Results], metric: str) -> Figure:
    good = [each["figures"][metric] for each in results if not each["collapsed"]]
    return Figure(tuple(value for value in good if value is not None), len(results), len(results) - len(good))


def _by_metric(chance: Any, metrics: Sequence[str]) -> dict[str, float]:
    if chance is None:
        return {}
    values = chance if isinstance(chance, Mapping) else dict.fromkeys(metrics, chance)
    return {metric: values[metric] for metric in metrics if values.get(metric) is not None}
