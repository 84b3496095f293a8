"""Draws a training step: its time by parts, and the curve of its peak memory over the batch, for each model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.report import describe

Row = dict[str, Any]
# Okabe and Ito's colors, which color-blind readers tell apart.
PARTS = {"encoders": "#56B4E9", "local loss": "#D55E00", "global loss": "#F0E442", "optimizer": "#BBBBBB"}
CONTENDERS = {"loop": ("#D55E00", "s"), "fused": ("#0072B2", "o"), "cached": ("#009E73", "D")}


def draw(results: dict[str, Any], path: Path) -> None:
    """Write the picture of a run to `path`, a PNG."""
    make_figure(results).savefig(path, dpi=100)


def make_figure(results: dict[str, Any]) -> Figure:
    """The step rows of `results`: for each model its times on the left, its memory on the right."""
    models = list(dict.fromkeys(row["model"] for row in results["step"]))
    figure = Figure(figsize=(14, 1 + 5 * len(models)), layout="constrained")
    panels = figure.subplots(len(models), 2, squeeze=False)
    for line, model in zip(panels, models, strict=True):
        rows = [row for row in results["step"] if row["model"] == model and "ms" in row]
        limits = [row for row in results["largest"] if row["model"] == model]
        _draw_times(line[0], rows)
        _draw_memory(line[1], rows, limits[0]["memory_bytes"])
        line[0].set_title(f"{model}: milliseconds a pair, by parts", fontsize=11, loc="left")
        line[1].set_title(f"{model}: peak memory of a step over the batch", fontsize=11, loc="left")
    figure.suptitle(f"A training step of the whole model: {describe(results)}", fontsize=12)
    return figure


def _draw_times(axes: Axes, rows: list[Row]) -> None:
    places = range(len(rows))
    left = [0.0] * len(rows)
    for part, color in PARTS.items():
        widths = [row["parts_ms"][part] / row["batch"] for row in rows]
        axes.barh(places, widths, left=left, height=0.7, label=part, color=color, edgecolor="black", linewidth=0.5)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.set_yticks(places, [f"{row['contender']}, N = {row['batch']}" for row in rows], fontsize=10)
    axes.set_ylim(len(rows) - 0.4, -0.6)  # the first row on top
    axes.set_xlabel("ms a pair", fontsize=10)
    axes.legend(fontsize=9)


def _draw_memory(axes: Axes, rows: list[Row], memory: int) -> None:
    for contender, (color, marker) in CONTENDERS.items():
        points = [(row["batch"], row["peak_bytes"] / 2**30) for row in rows if row["contender"] == contender]
        if points:
            axes.plot(*zip(*points, strict=True), marker=marker, color=color, label=contender)
    axes.axhline(memory / 2**30, color="black", linestyle="--", linewidth=0.8, label="memory of the machine")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("pairs in the batch", fontsize=10)
    axes.set_ylabel("GiB", fontsize=10)
    axes.grid(alpha=0.4)
    axes.legend(fontsize=9)
