"""Does it learn, and where does it look: a small GLoRIA trained on phantoms, measured on others, over seeds.

`python -m bench.learning --seeds 3`; each seed takes some minutes on two cores. The test set is the phantom 5x200 of
that seed: 200 images of each of five classes, with one finding each.
"""

import argparse
import json
import math
import shutil
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from gloria.attention import attention_figure, coverage, regions_view, save_figure, word_attention
from gloria.data import Row, read_table, write_five_by_200, write_phantoms
from gloria.data.layouts.chexpert import COMPETITION
from gloria.data.phantoms import NAMES, OF_EACH
from gloria.images import read_mask
from gloria.modeling import GloriaModel
from gloria.processing import GloriaProcessor
from gloria.retrieval import BY, precision_at, similarities
from gloria.small import small_model
from gloria.training import TrainingOptions, train
from gloria.zero_shot import ZeroShotClassifier

# What a class is called, in words and never as whole reports of it: the classes are scored by the mean over them.
PROMPTS = {
    "Atelectasis": ("Left basilar atelectasis.", "Right basilar atelectasis.", "Linear atelectasis at the base."),
    "Cardiomegaly": ("Cardiomegaly.", "The heart is enlarged.", "Enlargement of the cardiac silhouette."),
    "Consolidation": ("Left consolidation.", "Right consolidation.", "Airspace consolidation in the lung."),
    "Edema": ("Pulmonary edema.", "Interstitial edema.", "Vascular congestion and edema."),
    "Pleural Effusion": ("Left pleural effusion.", "Right pleural effusion.", "Layering pleural fluid."),
}
HELD_OUT = 64  # phantoms of the table of training that only the log's held-out loss sees
# Two-sided 95 % quantiles of Student's t for 1, 2, ... degrees of freedom.
T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def measure(model: GloriaModel, processor: GloriaProcessor, rows: Sequence[Row]) -> dict[str, float]:
    """Shares, 0 to 1: Precision@5 both ways, zero-shot accuracy, and attention of a finding's words to its mask."""
    labels = [row.label for row in rows]
    found = similarities(model, processor, [row.image for row in rows], [row.report for row in rows])
    measured = {}
    for by in BY:
        scores = found.by(by)
        measured[f"image to text P@5, {by}"] = precision_at(scores, labels, labels, 5)
        measured[f"text to image P@5, {by}"] = precision_at(scores.T, labels, labels, 5)
    for direction in ("image to text", "text to image"):
        both, alone = (measured[f"{direction} P@5, {by}"] for by in ("both", "global"))
        measured[f"{direction} P@5, both - global"] = both - alone
    measured["zero-shot accuracy"] = zero_shot(model, processor, rows)
    return measured | attention_to_masks(model, processor, rows)


def zero_shot(model: GloriaModel, processor: GloriaProcessor, rows: Sequence[Row]) -> float:
    """Share of the images whose own class has the highest mean similarity to its prompts, by the score trained with."""
    classifier = ZeroShotClassifier(model, processor, PROMPTS, form="paper", ensemble="mean")
    chosen = classifier.scores([row.image for row in rows]).argmax(1).tolist()
    return statistics.mean(classifier.classes[index] == row.label for index, row in zip(chosen, rows, strict=True))


def attention_to_masks(model: GloriaModel, processor: GloriaProcessor, rows: Sequence[Row]) -> dict[str, float]:
    """How much of the attention of the words that name a finding falls inside its mask, beside the mask's share.

    The other words of the report are measured too: an encoder that mixes its words may make them all look there.
    Regions that a mask covers in part count in part. "Pointing" asks whether the region that gets most attention is
    touched by the mask; its chance is the share of such regions.
    """
    inside, others, area, hits, touched = [], [], [], [], []
    for row in rows:
        words, maps = word_attention(model, processor, row.image, row.report)
        named = torch.tensor([word in NAMES[row.label.lower()] for word in words])
        if not named.any():
            continue  # the only word that names it is mistyped
        marked = read_mask(row.mask)
        view = regions_view(model.config, processor.image_processor, *reversed(marked.shape), maps.shape[1:])
        mask = torch.from_numpy(coverage(marked, view, maps.shape[1:])).float().flatten()
        attention = torch.from_numpy(maps).flatten(1)
        inside.append(float((attention[named] @ mask).mean()))
        others.append(float((attention[~named] @ mask).mean()))
        area.append(float(mask.mean()))
        hits.append(float((mask[attention[named].argmax(1)] > 0).float().mean()))
        touched.append(float((mask > 0).float().mean()))
    return {
        "attention inside the mask": statistics.mean(inside),
        "attention inside the mask, other words": statistics.mean(others),
        "attention inside the mask, by chance": statistics.mean(area),
        "pointing at the mask": statistics.mean(hits),
        "pointing at the mask, by chance": statistics.mean(touched),
    }


def interval(values: Sequence[float]) -> float:
    """Half of the 95 % confidence interval of the mean over seeds, by Student's t; infinite for one seed."""
    if len(values) < 2:
        return math.inf
    return T_95[len(values) - 2] * statistics.stdev(values) / math.sqrt(len(values))


def one_seed(out: Path, seed: int, count: int, epochs: int, of_each: int) -> dict[str, float]:
    """Trains and measures; what is left in `out` is the model and pictures of one image of each class."""
    shutil.rmtree(out, ignore_errors=True)
    rows = read_table(write_phantoms(out / "training", count + HELD_OUT, seed, second=0.3))
    test = read_table(write_five_by_200(out / "5x200", seed, of_each=of_each))
    model, processor = small_model([row.report for row in rows[:count]], seed)
    options = TrainingOptions(epochs=epochs, batch_size=32, learning_rate=1e-3, seed=seed, cpu=True, progress=False)
    started = time.perf_counter()
    train(model, processor, rows[:count], rows[count:], out / "run", options)
    seconds = time.perf_counter() - started
    for row in test[: len(COMPETITION)]:
        figure = attention_figure(model, processor, row.image, row.report, row.mask, title=f"Never seen: {row.label}")
        save_figure(figure, out / f"{row.label.lower().replace(' ', '-')}.png")
    return {**measure(model, processor, test), "minutes of training": seconds / 60}


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `python -m bench.learning`."""
    parser = argparse.ArgumentParser(prog="python -m bench.learning", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/learning"), help="default: runs/learning")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, 1 to 10; default: 3")
    parser.add_argument("--count", type=int, default=1600, help="phantoms to train on; default: 1600")
    parser.add_argument("--epochs", type=int, default=16, help="default: 16")
    parser.add_argument("--of-each", type=int, default=OF_EACH, help="test images of each class; default: 200")
    given = parser.parse_args(arguments)
    if not 1 <= given.seeds <= len(T_95) + 1:
        parser.error(f"--seeds is {given.seeds}; expected 1 to {len(T_95) + 1}")
    transformers_logging.disable_progress_bar()
    runs = []
    for seed in range(given.seeds):
        runs.append(one_seed(given.out / str(seed), seed, given.count, given.epochs, given.of_each))
        print(f"seed {seed}: {json.dumps(runs[-1])}", flush=True)
    print(f"\nmean over {len(runs)} seeds, with half of the 95 % confidence interval; shares in percent")
    for name in runs[0]:
        values = [run[name] for run in runs]
        unit = 1 if name.startswith("minutes") else 100
        print(f"{name:<40}{unit * statistics.mean(values):8.1f} ± {unit * interval(values):.1f}")
    (given.out / "learning.json").write_text(json.dumps(runs, indent=2) + "\n")


if __name__ == "__main__":
    main()
