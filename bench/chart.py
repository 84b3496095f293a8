"""Draws where the fused score's time goes: a bar of stages for each case, dtype and mode, and the limits beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure  # without pyplot: no window, no state, a PNG is drawn by Agg

from bench.report import describe, describe_problem

Row = dict[str, Any]
MODES = {"forward": "forward", "full": "forward + backward"}

# Okabe and Ito's colors, which color-blind readers tell apart; hatched is what only backward does, and waiting.
BLUE, SKY, GREEN, ORANGE, YELLOW = "#0072B2", "#56B4E9", "#009E73", "#E69F00", "#F0E442"
VERMILION, PURPLE, GRAY, WHITE = "#D55E00", "#CC79A7", "#BBBBBB", "#FFFFFF"
STYLES = {
    "packing": (GRAY, ""),
    "gram": (SKY, ""),
    "affinity": (BLUE, ""),
    "attention": (ORANGE, ""),
    "context": (GREEN, ""),
    "pooling": (YELLOW, ""),
    "gradient": (ORANGE, "////"),
    "gradient of gram": (SKY, "////"),
    "gradient of regions": (PURPLE, "////"),
    "gradient of words": (VERMILION, "////"),
    "waiting": (WHITE, "...."),
    "outside the kernels": (WHITE, ""),
}


def draw(results: dict[str, Any], path: Path) -> None:
    """Write the picture of a run to `path`, a PNG."""
    make_figure(results).savefig(path, dpi=100)


def make_figure(results: dict[str, Any]) -> Figure:
    """The roofline rows of `results`: a line of panels for each shape, each panel with a scale of its own."""
    problems: dict[str, list[Row]] = {}
    for row in results["roofline"]:
        problems.setdefault(describe_problem(row), []).append(row)
    heights = [sum(row["mode"] == "full" for row in rows) + 1 for rows in problems.values()]
    figure = Figure(figsize=(15, 3 + 0.5 * sum(heights)), layout="constrained")
    panels = figure.subplots(len(problems), len(MODES), height_ratios=heights, squeeze=False)
    for line, (problem, rows) in zip(panels, problems.items(), strict=True):
        for axes, (mode, title) in zip(line, MODES.items(), strict=True):
            _draw_panel(axes, [row for row in rows if row["mode"] == mode])
            axes.set_title(f"{problem}, {title}", fontsize=11, loc="left")
    figure.suptitle(f"Where the time goes: {describe(results)}", fontsize=12)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=10, handlelength=2.4, handleheight=1.2)
    return figure


def _draw_panel(axes: Axes, rows: list[Row]) -> None:
    """One bar a row, as long as the call took; every stage is drawn, so that one legend serves all panels."""
    places = range(len(rows))
    left = [0.0] * len(rows)
    for name, (color, hatch) in STYLES.items():
        widths = [row["outside_ms"] if name == "outside the kernels" else row["stages_ms"][name] for row in rows]
        style: dict[str, Any] = {"color": color, "hatch": hatch, "edgecolor": "black", "linewidth": 0.6}
        axes.barh(places, widths, left=left, height=0.6, label=name, **style)
        left = [start + width for start, width in zip(left, widths, strict=True)]

    below = [place + 0.38 for place in places]
    limits: dict[str, tuple[str, str, int, list[float]]] = {  # marker, its color and size, and where it stands
        "bare product of all words and regions": ("s", "black", 90, [row["limit_ms"] for row in rows]),
        "floor: the flops needed, at the bare product's rate": ("D", "white", 40, [row["floor_ms"] for row in rows]),
        "floor + exponentials": ("o", "white", 40, [row["floor_ms"] + row["exponential_ms"] for row in rows]),
    }
    for name, (marker, color, size, at) in limits.items():
        axes.scatter(at, below, s=size, marker=marker, color=color, edgecolor="black", zorder=3, label=name)
    axes.set_yticks(places, [f"{row['preset']}, {row['dtype']}" for row in rows], fontsize=10)
    axes.set_ylim(len(rows) - 0.4, -0.6)  # the first row on top
    axes.set_xlim(left=0)
    axes.set_xlabel("ms", fontsize=10)
    axes.tick_params(axis="x", labelsize=10)
    axes.grid(axis="x", alpha=0.4)
    axes.set_axisbelow(True)
