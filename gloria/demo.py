"""Trains a small GLoRIA on phantoms, or on tables of X-rays with reports, and shows what it has learned.

`python -m gloria.demo --out DIR [--data TABLE] [--data phantoms] [--seed N]`
"""

import argparse
import math
import random
import shutil
import statistics
import tempfile
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from transformers.utils import logging as transformers_logging

from gloria.attention import attention_figure, attention_page, save_figure
from gloria.attention.localization import TOLERANCE, localize_rows
from gloria.data import (
    Row,
    TableDataset,
    find_problems,
    read_table,
    split_rows,
    write_five_by_200,
    write_phantoms,
)
from gloria.images import read_mask, to_rgb
from gloria.lock import only_writer
from gloria.modeling import GloriaModel
from gloria.processing import GloriaProcessor
from gloria.retrieval import Similarities, chance, format_precision, labels_of, similarities
from gloria.small import small_model
from gloria.training import CHECKPOINTS, METRICS, PairCollator, TrainingOptions, train
from gloria_ops import local_contrastive_loss

PHANTOMS = "phantoms"
# Together two and a half minutes on two cores, most of it the training. Fewer steps at more pixels learn less at some
# seeds (bench/README.md).
PIXELS = 96
STEPS = 550
# 12 x 12 regions, each of which sees half of the image's width. A region of stage 3 sees nearly all of it, so
# that a word may find its finding in a region beside it. A sharper attention suits the smaller regions.
REGION_STAGE = "stage2"
ATTENTION_SCALE = 20.0
COUNT = 1600
ASKED = 25  # training phantoms for each held-out phantom of a class
BATCH = 32
LEARNING_RATE = 1e-3
ROUNDS = 7
# Files that the last lines name, the best first.
SHOWN = {
    "attention.html": "in a browser: point at a word of a report to see where it looks",
    "attention.png": "the same as a picture: the first held-out image with a finding",
    "retrieval.png": "the images found first for reports that the model has never seen",
    "loss.png": "the loss over the epochs",
}


def demo(out: str | Path, data: Sequence[str], steps: int = STEPS, count: int = COUNT, seed: int = 0) -> None:
    """Train and evaluate on each data set, print tables and write pictures.

    Args:
        out: folder to write to; each data set gets a run folder of its name.
        data: paths of tables, in folders of different names, or "phantoms".
        steps: optimizer steps on each, rounded up to whole passes.
        count: number of phantoms to train on; a fifth as many are held out.
        seed: seed of the split, the order, the weights and the phantoms.

    Raises:
        ValueError, FileNotFoundError: an unreadable table; two data sets of one name.
    """
    transformers_logging.disable_progress_bar()
    names = [PHANTOMS if source == PHANTOMS else Path(source).resolve().parent.name for source in data]
    if len(set(names)) < len(names):
        raise ValueError(f"data gives runs of the names {names}; expected tables in folders of different names")
    for name, source in zip(names, data, strict=True):
        started = time.perf_counter()
        if source == PHANTOMS:
            training, held_out = drawn(Path(out) / "phantoms-data", count, seed)
        else:
            training, held_out = _split_table(Path(source), seed)
        print(f"== {name}: {len(training)} rows to train on, {len(held_out)} of other patients held out", flush=True)
        _train_and_show(training, held_out, Path(out) / name, steps, seed)
        print(f"\n{name}: {time.perf_counter() - started:.0f} s. Open")
        for file, shows in SHOWN.items():
            print(f"  {Path(out) / name / file}  {shows}")
        print(flush=True)


def drawn(folder: Path, count: int, seed: int) -> tuple[list[Row], list[Row]]:
    """Draw phantoms to train on, and a fifth as many of a phantom 5x200 to hold out, in random order."""
    training = read_table(write_phantoms(folder / "training", count, seed, progress=True))
    of_each = max(1, count // ASKED)
    held_out = read_table(write_five_by_200(folder / "5x200", seed, of_each=of_each, progress=True))
    random.Random(seed).shuffle(held_out)
    return training, held_out


def local_loss_seconds(model: GloriaModel, processor: GloriaProcessor, rows: Sequence[Row]) -> dict[str, float]:
    """Time the parts of a training step, forward and backward: medians of interleaved rounds, in seconds.

    Returns:
        "rest" (encoders and global loss), and the local loss "fused" and "unfused". Unfused is the eager reference, a
        loop over the texts, as in the released code.
    """
    dataset = TableDataset(rows, processor, group_equal_texts=False)
    batch = PairCollator(processor)([dataset[index] for index in range(len(rows))])
    model.train()
    with torch.no_grad():
        encoded = model(**batch, return_loss=False)
    regions, words = (each.clone().requires_grad_() for each in (encoded.region_embeds, encoded.word_embeds))

    def rest() -> None:
        output = model(**batch, return_loss=False)
        torch.stack(model.global_contrast(output.image_embeds, output.text_embeds)).sum().backward()
        model.zero_grad()

    def local(backend: str | None) -> None:
        losses = local_contrastive_loss(
            regions, words, word_lengths=encoded.word_lengths, score=model.learned_score, backend=backend
        )
        torch.stack(losses).sum().backward()

    parts: dict[str, Callable[[], None]] = {
        "rest": rest,
        "fused": lambda: local(None),
        "unfused": lambda: local("reference"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(ROUNDS + 1):  # the first round warms up
        for name, part in parts.items():
            started = time.perf_counter()
            part()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def shown_row(rows: Sequence[Row]) -> Row:
    """Return the first row whose mask outlines a finding, whatever its attention; the first row if none does."""
    return next((row for row in rows if row.mask and read_mask(row.mask).any()), rows[0])


def where_words_look(model: GloriaModel, processor: GloriaProcessor, rows: Sequence[Row]) -> str:
    """Say how much attention of a finding's name falls on the finding, and chance; "" without masks or boxes.

    The name is the label if every row has one, else the report.
    """
    text: Literal["report", "label"] = "label" if all(row.label for row in rows) else "report"
    found = [each for _, each in localize_rows(model, processor, rows, text)]
    if not found:
        return ""
    mass, even, hit, hit_by_chance = (
        100 * statistics.mean(float(getattr(each, name)) for each in found)
        for name in ("mass", "mass_by_chance", "hit", "hit_by_chance")
    )
    return (
        f"The words of the {text}, {len(found)} held-out images with an outlined finding: {mass:.1f} % of their local "
        f"attention is inside the outline\n(chance {even:.1f} %), and the strongest region is on it, or within "
        f"{TOLERANCE:g} pixels, in {hit:.1f} % (chance {hit_by_chance:.1f} %)."
    )


def montage(found: Similarities, rows: Sequence[Row], queries: int = 4, k: int = 5) -> Figure:
    """Show the images found first for reports of different labels, with green frames where the label is the same."""
    labels = labels_of(rows)
    first_of = {label: labels.index(label) for label in dict.fromkeys(labels)}
    chosen = list(first_of.values())[:queries]
    k = min(k, len(rows))
    size = (2.1 * (k + 1.6), 2.3 * len(chosen))
    figure, axes = plt.subplots(len(chosen), k + 1, figsize=size, width_ratios=[1.6] + [1] * k, squeeze=False)
    figure.set_layout_engine("constrained")
    scores = found.by("both").T
    for line, query in zip(axes, chosen, strict=True):
        report = rows[query].report
        line[0].text(
            0, 0.95, textwrap.fill(textwrap.shorten(report, 200, placeholder=" ..."), 32), va="top", fontsize=9
        )
        line[0].set_title(f"query: {labels[query][:30]}", fontsize=9, loc="left")
        line[0].set_axis_off()
        for axis, index in zip(line[1:], scores[query].topk(k).indices.tolist(), strict=True):
            axis.imshow(to_rgb(rows[index].image))
            axis.set_xticks([])
            axis.set_yticks([])
            same = labels[index] == labels[query]
            axis.set_title(labels[index][:24] + (" (its own)" if index == query else ""), fontsize=8)
            for spine in axis.spines.values():
                spine.set(color="limegreen" if same else "crimson", linewidth=3)
    figure.suptitle("Images found for held-out reports (green: same label)", fontsize=11)
    return figure


def _split_table(table: Path, seed: int) -> tuple[list[Row], list[Row]]:
    """Read the good rows of a table, and split them."""
    rows = read_table(table)
    bad = {problem.line for problem in find_problems(rows, progress=True) if problem.bad}
    if bad:
        print(f"{len(bad)} bad rows of {table} left out, `gloria validate-data` names them")
    return split_rows([row for row in rows if row.line not in bad], seed=seed)


def _train_and_show(training: Sequence[Row], held_out: Sequence[Row], out: Path, steps: int, seed: int) -> None:
    model, processor = small_model([row.report for row in training], seed, PIXELS, REGION_STAGE, ATTENTION_SCALE)
    with only_writer(out), tempfile.TemporaryDirectory() as cache:
        options = TrainingOptions(
            epochs=math.ceil(steps / max(1, len(training) // BATCH)),
            batch_size=BATCH,
            learning_rate=LEARNING_RATE,
            retrieval_rows=0,  # ranked once, at the end
            cache=cache,
            seed=seed,
            cpu=True,
        )
        # Remove an earlier demo: train() itself overwrites no run.
        shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
        (out / METRICS).unlink(missing_ok=True)
        metrics = train(model, processor, training, held_out, out, options)
    show(model, processor, training, held_out, metrics["precision"], out)


def show(
    model: GloriaModel,
    processor: GloriaProcessor,
    training: Sequence[Row],
    held_out: Sequence[Row],
    precision: dict[str, dict[str, float]],
    out: Path,
) -> None:
    """Write the pictures of a trained model, and print its figures.

    Args:
        model: trained.
        processor: processor of that model.
        training: rows; the first batch is timed.
        held_out: rows to show and measure.
        precision: `gloria.retrieval.precision_table` of the held-out rows.
        out: folder of the pictures.
    """
    found = similarities(model, processor, [row.image for row in held_out], [row.report for row in held_out])
    save_figure(montage(found, held_out), out / "retrieval.png")
    shown = shown_row(held_out)
    title = f"Held out: {Path(str(shown.image)).name}" + (f", {shown.label}" if shown.label else "")
    given = (model, processor, shown.image, shown.report, shown.mask, title)
    save_figure(attention_figure(*given), out / "attention.png")
    (out / "attention.html").write_text(attention_page(*given), encoding="utf-8")

    print(f"\nPrecision@K in percent, {len(held_out)} held-out images and reports, relevant = same finding")
    print(format_precision(precision))
    labels = labels_of(held_out)
    print(_verdict(precision, chance(labels, labels), len(held_out)))
    if looks := where_words_look(model, processor, held_out):
        print(f"\n{looks}")
    seconds = local_loss_seconds(model, processor, training[:BATCH])
    print(f"\nlocal loss in a training step, {min(BATCH, len(training))} pairs, forward and backward")
    for kind, what in (("fused", ""), ("unfused", " (eager reference, a loop over the texts)")):
        share = seconds[kind] / (seconds[kind] + seconds["rest"])
        print(f"{kind:<9}{1000 * seconds[kind]:8.1f} ms {100 * share:5.1f} % of the step{what}")


def _verdict(precision: dict[str, dict[str, float]], by_chance: float, rows: int) -> str:
    """Say in a line what the figures show, since a table alone may impress too much."""
    reached = statistics.mean(
        value for line in precision.values() for name, value in line.items() if name.startswith("both ")
    )
    if reached > 3 * by_chance:
        return "Learning is visible: well above chance on images never seen."
    return (
        "Little above chance, if at all: these are too few pairs, or passes over them, to learn from scratch, and "
        f"{rows} held-out rows tell little. It shows that all of it runs on such images and reports, no more."
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `python -m gloria.demo`."""
    parser = argparse.ArgumentParser(prog="python -m gloria.demo", description="Train a small GLoRIA and show it.")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="default: runs/demo")
    parser.add_argument(
        "--data",
        action="append",
        metavar="TABLE",
        help="a table of images and reports, or 'phantoms'; may be given several times. Default: phantoms",
    )
    parser.add_argument("--steps", type=int, default=STEPS, help=f"optimizer steps on each; default: {STEPS}")
    parser.add_argument("--count", type=int, default=COUNT, help=f"phantoms to train on; default: {COUNT}")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn; default: 0")
    given = parser.parse_args(arguments)
    try:
        demo(given.out, given.data or [PHANTOMS], given.steps, given.count, given.seed)
    except (ValueError, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
