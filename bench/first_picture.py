"""Draws the picture of the README: where the words of a report look, beside the time and memory of a training step.

`python -m gloria.demo`, then `python -m bench.first_picture`. The left shows the first held-out drawing of each class
whose report spells a word that names the finding, and where the first such word looks; the right is a results file of
`bench/test_step.py`.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from bench.step_chart import CONTENDERS
from gloria import GloriaModel, GloriaProcessor
from gloria.attention import content_words, regions_view, word_attention
from gloria.attention.figure import SEE_THROUGH, scale_top
from gloria.attention.localization import in_image
from gloria.data import Row, read_table
from gloria.data.phantoms import NAMES
from gloria.images import read_mask, to_rgb

RUN = Path("runs/demo/phantoms")
RESULTS = Path(__file__).parent / "results" / "intel-r-xeon-r-processor-avx512-2-cores-step.json"
OUT = Path(__file__).parents[1] / "docs" / "first-picture.png"
MODEL = "small"  # the model of `gloria train --preset small`


def make_figure(run: Path, results: dict[str, Any]) -> Figure:
    """Draw both halves.

    Args:
        run: folder of a run of the demo on phantoms.
        results: of `bench/test_step.py`.
    """
    figure = Figure(figsize=(14, 4), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1.4, 1], wspace=0.03)
    first: dict[str, Row] = {}
    for row in read_table(run / "held_out.csv"):
        if naming_word(row) is not None:
            first.setdefault(row.label, row)
    _draw_words(left, run, [first[label] for label in sorted(first)])
    _draw_step(right, results)
    return figure


def naming_word(row: Row) -> str | None:
    """Return the first word of the report that names the finding; None where all that do are mistyped."""
    return next((word for word in re.findall(r"\w+", row.report.lower()) if word in NAMES[row.label.lower()]), None)


def _draw_words(figure: SubFigure, run: Path, rows: Sequence[Row]) -> None:
    model, processor = GloriaModel.from_pretrained(run), GloriaProcessor.from_pretrained(run)
    axes = figure.subplots(2, len(rows), squeeze=False)
    for (above, below), row in zip(axes.T, rows, strict=True):
        image, mask = to_rgb(row.image), read_mask(row.mask)
        words, maps = word_attention(model, processor, image, row.report)
        relative = maps * maps[0].size
        named = words.index(naming_word(row))
        view = regions_view(model.config, processor.image_processor, image.width, image.height, maps.shape[1:])
        for axis in (above, below):
            axis.imshow(image)
            axis.contour(mask, levels=[0.5], colors="cyan", linewidths=1)
            axis.set_axis_off()
        above.set_title(row.label, fontsize=11)
        below.set_title(f'"{words[named]}"', fontsize=11)
        top = scale_top(relative[content_words(words)])
        below.imshow(in_image(relative[named], view, mask.shape)[0], cmap=SEE_THROUGH, vmin=1, vmax=top)
    figure.suptitle("Where a word that names the finding looks, in drawings held out", fontsize=12)


def _draw_step(figure: SubFigure, results: dict[str, Any]) -> None:
    time, memory = figure.subplots(1, 2)
    rows = [row for row in results["step"] if row["model"] == MODEL and "ms" in row]
    for contender in ("loop", "fused"):
        of_one = [row for row in rows if row["contender"] == contender]
        color, marker = CONTENDERS[contender]
        batches = [row["batch"] for row in of_one]
        for axes, values in (
            (time, [row["ms"] / row["batch"] for row in of_one]),
            (memory, [row["peak_bytes"] / 2**30 for row in of_one]),
        ):
            axes.plot(batches, values, marker=marker, color=color, label=contender)
    _label(time, "ms a pair")
    _label(memory, "peak memory, GiB")
    figure.suptitle("A training step over the batch, local loss by a loop or fused", fontsize=12)


def _label(axes: Axes, title: str) -> None:
    axes.set(title=title, xlabel="pairs in the batch", xscale="log", yscale="log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_minor_formatter(lambda value, _: "")
    axes.set_xticks([16, 64, 256, 1024])
    axes.grid(alpha=0.4)
    axes.legend(fontsize=11)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `python -m bench.first_picture`."""
    parser = argparse.ArgumentParser(prog="python -m bench.first_picture", description="Draw the picture of README.md.")
    parser.add_argument("--run", type=Path, default=RUN, help=f"run of the demo on phantoms; default: {RUN}")
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"default: bench/results/{RESULTS.name}")
    parser.add_argument("--out", type=Path, default=OUT, help="default: docs/first-picture.png")
    given = parser.parse_args(arguments)
    figure = make_figure(given.run, json.loads(given.results.read_text(encoding="utf-8")))
    figure.savefig(given.out, dpi=90)


if __name__ == "__main__":
    main()
