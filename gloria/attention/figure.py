"""Draws what the words of a report look at, and the loss of a training run."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from gloria.attention.regions import regions_extent
from gloria.images import read_mask
from gloria.modeling import GloriaModel
from gloria.processing import GloriaProcessor
from gloria_ops import attention_maps

PER_ROW = 6
TITLE = {"fontsize": 10, "y": 1.0}  # at a height that need not be searched for
MOST_WORDS = 28  # with the image itself and the whole report, five rows of six
# Even attention, or less, leaves the X-ray as it is; the strongest attention hides two thirds of it. The opacity rises
# fast at first, since a pale color on a gray picture is easy to miss.
SEE_THROUGH = ListedColormap(
    np.c_[plt.get_cmap("inferno")(np.linspace(0.3, 1, 256))[:, :3], 0.67 * np.linspace(0, 1, 256) ** 0.6]
)


def attention_figure(
    model: GloriaModel, processor: GloriaProcessor, image: Any, report: str, mask: Any = None, title: str = ""
) -> Figure:
    """Draw the image as the model sees it, with the mean attention of the report, and again for each of its words.

    Attention is drawn as a multiple of even attention (attention times the number of regions), on one scale for all
    panels; regions with less than even attention are not colored. Punctuation is left out. Long reports are cut after
    `MOST_WORDS` words, and the title says so.

    Args:
        model: put into evaluation mode while it works.
        processor: processor of the same run.
        image: any image that the processor takes.
        report: its report, or any other text.
        mask: image that is bright where the finding is, see `read_mask`; it is outlined. None draws no outline.
        title: line above the report.

    Returns:
        A figure, for `savefig`; close it with `matplotlib.pyplot.close`.
    """
    words, maps = word_attention(model, processor, image, report)
    gray = _gray_input(processor, image)
    outline = None if mask is None else _gray_input(processor, read_mask(mask))
    relative = maps * maps[0].size
    content = content_words(words)
    chosen = content[:MOST_WORDS]
    rows = -(-(len(chosen) + 2) // PER_ROW)
    heading = textwrap.wrap(report, 110, max_lines=4, placeholder=" ...")
    cut = [f"(the first {len(chosen)} of {len(content)} words)"] if len(chosen) < len(content) else []
    heading = [*([title] if title else []), *heading, *cut]
    figure, axes, scale = _panels(rows, len(heading))
    figure.suptitle("\n".join(heading), fontsize=11, parse_math=False, y=1 - 0.08 / figure.get_figheight(), va="top")
    panels = list(np.ravel(axes))
    for axis in panels:
        axis.set_axis_off()
    for axis in panels[: len(chosen) + 2]:
        axis.imshow(gray, cmap="gray", vmin=0, vmax=1)
    panels[0].set_title("image", **TITLE)
    if outline is not None and outline.max() > 0.5:
        for axis in panels[:2]:
            axis.contour(outline, levels=[0.5], colors="cyan", linewidths=1)
        panels[0].set_title("image, finding outlined", **TITLE)
    height, width = gray.shape
    (upper, bottom), (left, right) = (regions_extent(model.config, width, each) for each in maps.shape[1:])
    top = scale_top(relative[chosen])
    drawings = [("whole report", relative[content].mean(0)), *((words[index], relative[index]) for index in chosen)]
    for axis, (name, drawn) in zip(panels[1:], drawings, strict=False):
        shown = axis.imshow(
            drawn,
            cmap=SEE_THROUGH,
            vmin=1,
            vmax=top,
            interpolation="bilinear",
            extent=(left - 0.5, right - 0.5, bottom - 0.5, upper - 0.5),
        )
        axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
        axis.set_title(name, **TITLE, parse_math=False)
    figure.colorbar(shown, cax=scale, label="attention, 1 = even\nover all regions or less", extend="max")
    return figure


def _panels(rows: int, lines: int) -> tuple[Figure, np.ndarray, Axes]:
    """Return a figure, its panels, and axes for their scale, below so many lines of heading.

    Places are in inches, and there are no ticks: a layout that measures every text takes longer than the drawing.
    """
    width, height = 2.0 * PER_ROW + 1.0, 2.1 * rows + 0.2 * lines + 0.2
    edges = {"left": 0.1 / width, "right": 1 - 1.1 / width, "bottom": 0.1 / height}
    edges["top"] = 1 - (0.2 * lines + 0.4) / height
    figure, axes = plt.subplots(
        rows,
        PER_ROW,
        figsize=(width, height),
        subplot_kw={"xticks": [], "yticks": []},
        gridspec_kw={**edges, "wspace": 0.04, "hspace": 0.15},
    )
    scale = figure.add_axes((1 - 1.0 / width, edges["bottom"], 0.15 / width, edges["top"] - edges["bottom"]))
    return figure, axes, scale


def scale_top(relative: np.ndarray) -> float:
    """Return the multiple of even attention with the strongest color; one extreme region must not dim the others."""
    return max(2.0, float(np.quantile(relative, 0.995)))


def content_words(words: Sequence[str]) -> list[int]:
    """Return the indices of the words that are not punctuation; the first index if all are."""
    return [index for index, word in enumerate(words) if any(map(str.isalnum, word))] or [0]


@torch.no_grad()
def word_attention(
    model: GloriaModel, processor: GloriaProcessor, image: Any, report: str
) -> tuple[list[str], np.ndarray]:
    """Return the words of a report and where each looks in an image, without [CLS] unless there is no other word.

    Returns:
        W words, and their attention over the regions, (W, H, Wd) float32; each map sums to 1 where words attend to
        regions (direction "t2i").
    """
    batch = processor(images=image, text=report).to(model.device)
    training = model.training
    output = model.eval()(**batch, return_loss=False)
    model.train(training)
    maps = attention_maps(
        output.region_embeds, output.word_embeds, word_lengths=output.word_lengths, score=model.learned_score
    )
    words = processor.words(batch["input_ids"].cpu(), batch["word_ids"].cpu())[0]
    first = 1 if len(words) > 1 and words[0] == processor.tokenizer.cls_token else 0
    return words[first:], maps[0][first:].float().cpu().numpy()


def loss_figure(history: Sequence[dict[str, float]]) -> Figure:
    """Draw training and held-out loss over the epochs, from the log of `transformers.Trainer`."""
    figure, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for key, label, style in (("loss", "training", "-"), ("eval_loss", "held-out patients", "o-")):
        points = [(entry["epoch"], entry[key]) for entry in history if key in entry]
        if points:
            axis.plot(*zip(*points, strict=True), style, markersize=4, label=label)
    axis.set_xlabel("epoch")
    axis.set_ylabel("loss (global + local, both directions)")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    if axis.get_legend_handles_labels()[0]:
        axis.legend()
    return figure


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure as a picture and close it."""
    figure.savefig(path)
    plt.close(figure)
    return Path(path)


def _gray_input(processor: GloriaProcessor, image: Any) -> np.ndarray:
    """Return the image that the model sees, gray in [0, 1], (H, W)."""
    pixels = processor(images=image)["pixel_values"][0].numpy().transpose(1, 2, 0)
    seen = np.clip(pixels * processor.image_processor.image_std + processor.image_processor.image_mean, 0, 1)
    return seen.mean(-1)
