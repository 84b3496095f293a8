"""A training step of the whole model, encoders and optimizer included: where its time goes, and which batch fits.

`python -m bench.step '{"model": ..., "batch": ..., "contender": ...}'` prints the peak memory of one step, and with
"contenders" their times: in processes of their own, which start without the memory that earlier steps still hold.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor
from transformers import BertConfig, ResNetConfig

from bench.lengths import draw_lengths
from bench.memory import peak, start_counting
from bench.peers import loop_scores
from bench.timing import interleave, ratio
from gloria import GloriaConfig, GloriaModel
from gloria.small import small_config
from gloria_ops import in_micro_batches, local_contrastive_loss
from gloria_ops.functional import contrastive_losses

Row = dict[str, Any]
Peaks = dict[str, dict[int, int]]  # bytes, by contender and batch

CONTENDERS = ("fused", "loop", "cached")
PARTS = ("encoders", "local loss", "global loss", "optimizer")
VOCABULARY = 1000
# Seconds after which a contender sits out the rounds that are left.
ALLOWANCE = 20.0


@dataclass(frozen=True)
class StepModel:
    """A model with random weights, the batches that it is trained on, and the pairs of a micro-batch."""

    name: str
    config: Callable[[], GloriaConfig]
    pixels: int
    batches: tuple[int, ...]
    micro_batch_size: int


def _full() -> GloriaConfig:
    return GloriaConfig()  # ResNet-50 and BERT base, 768 wide


def _small() -> GloriaConfig:
    """`gloria train --preset small`."""
    config = small_config(VOCABULARY)
    config.text_config.max_position_embeddings += 1  # for the [SEP] behind the longest of the reports that are drawn
    return config


def _tiny() -> GloriaConfig:
    images = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], layer_type="basic")
    texts = BertConfig(
        vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    return GloriaConfig(image_config=images, text_config=texts, projection_dim=24, last_layers=3)


MODELS = {
    each.name: each
    for each in (
        StepModel("full", _full, pixels=299, batches=(8, 24, 48), micro_batch_size=8),
        StepModel("small", _small, pixels=160, batches=(16, 64, 256, 1024), micro_batch_size=16),
        StepModel("quick", _tiny, pixels=64, batches=(5,), micro_batch_size=2),
    )
}


class Step:
    """A step of training on `batch` pairs, timed in parts; the graph is cut at the embeddings, which changes nothing.

    Args:
        model: which encoders.
        batch: pairs; the reports have the word counts of real ones.
        backend: of gloria_ops.
    """

    def __init__(self, model: StepModel, batch: int, backend: str) -> None:
        torch.manual_seed(0)
        self.shape, self.backend = model, backend
        self.model = GloriaModel(model.config()).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=5e-5)
        self.lengths = draw_lengths(batch)
        self.pixels = torch.randn(batch, 3, model.pixels, model.pixels)
        self.texts = _texts(self.lengths)

    def __call__(self, contender: str) -> dict[str, float]:
        """Seconds of each part, and of the whole step."""
        size = self.shape.micro_batch_size if contender == "cached" else None
        started = time.perf_counter()
        embeddings = self._encode(size)
        encoded = time.perf_counter()
        leaves = [each.detach().requires_grad_() for each in embeddings]
        self._local(contender, leaves[1], leaves[3])
        local = time.perf_counter()
        torch.stack(self.model.global_contrast(leaves[0], leaves[2])).sum().backward()
        whole = time.perf_counter()
        torch.autograd.backward(embeddings, [each.grad for each in leaves])
        replayed = time.perf_counter()
        self.optimizer.step()
        self.optimizer.zero_grad()
        ended = time.perf_counter()
        parts = (encoded - started + replayed - whole, local - encoded, whole - local, ended - replayed)
        return {**dict(zip(PARTS, parts, strict=True)), "step": ended - started}

    def _encode(self, size: int | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Vectors and regions of the images, vectors and words of the texts."""
        images = in_micro_batches(self.model.get_image_features, self.pixels, size)
        vectors, words, _ = in_micro_batches(self.model.get_text_features, self.texts, size)
        return *images, vectors, words

    def _local(self, contender: str, regions: Tensor, words: Tensor) -> None:
        score = self.model.config.score
        if contender == "loop":
            scores = loop_scores(regions, words.transpose(1, 2), self.lengths, score)
            losses = contrastive_losses(scores, logit_scale=score.logit_scale)
        else:
            losses = local_contrastive_loss(
                regions, words, word_lengths=self.lengths, score=score, backend=self.backend
            )
        torch.stack(losses).sum().backward()


def measure(model: StepModel, *, backend: str, rounds: int) -> list[Row]:
    """Rows of every contender at every batch that fits: peak memory first, then the times of those that ran."""
    peaks: Peaks = {contender: {} for contender in CONTENDERS}
    rows = []
    for batch in model.batches:
        left_out = {}
        problem = {"model": model.name, "batch": batch, "backend": backend}
        for contender in CONTENDERS:
            why = does_not_fit(contender, peaks, batch)
            if why:
                left_out[contender] = why
            else:
                peaks[contender][batch] = _in_a_child(problem | {"contender": contender})
        fitting = [each for each in CONTENDERS if each not in left_out]
        times = _in_a_child(problem | {"contenders": fitting, "rounds": rounds})
        for contender in CONTENDERS:
            row = {"model": model.name, "batch": batch, "words": sum(draw_lengths(batch)), "contender": contender}
            if contender in left_out:
                rows.append(row | {"left_out": left_out[contender]})
            else:
                rows.append(row | times[contender] | {"peak_bytes": peaks[contender][batch]})
    return rows


def largest(rows: Sequence[Row], memory: int) -> list[Row]:
    """The largest batch of each contender that fits into so many bytes, by its curve; and the largest that was run."""
    peaks: Peaks = {contender: {} for contender in CONTENDERS}
    for row in rows:
        if "peak_bytes" in row:
            peaks[row["contender"]][row["batch"]] = row["peak_bytes"]
    found = []
    for contender, measured in peaks.items():
        batch = max(measured)
        for exponent in range(20, -1, -1):
            batch += 2**exponent * int(curve(contender, peaks, batch + 2**exponent) <= memory)
        figures = {"memory_bytes": memory, "largest": batch, "largest_run": max(measured)}
        found.append({"model": rows[0]["model"], "contender": contender} | figures)
    return found


def does_not_fit(contender: str, peaks: Peaks, batch: int) -> str | None:
    """Why a contender is left out, by what smaller batches took; None where it fits, or nothing is known yet."""
    needed = curve(contender, peaks, batch)
    return None if needed <= 0.8 * psutil.virtual_memory().available else f"not run: about {needed / 2**30:.0f} GiB"


def curve(contender: str, peaks: Peaks, batch: int) -> float:
    """Peak bytes of a batch, from what was measured: a line, and on it, for the loop, what grows with its square.

    That is the tensors of N x words x regions and N x words x D which the loop keeps, and which nothing else has.
    """
    if contender == "loop":
        both = [(peaks["loop"][each] - peaks["fused"][each]) / each**2 for each in peaks["loop"]]
        return curve("fused", peaks, batch) + (both[-1] * batch**2 if both else 0)
    measured = peaks[contender]
    if len(measured) < 2:
        return 0
    slope, start = np.polyfit(list(measured), list(measured.values()), 1)
    return start + slope * batch


def _in_a_child(problem: dict[str, Any]) -> Any:
    """What a process of its own prints of the problem, as the head of this module says."""
    command = [sys.executable, "-m", "bench.step", json.dumps(problem)]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    child = subprocess.run(command, cwd=Path(__file__).parents[1], env=environment, capture_output=True, text=True)
    if child.returncode:
        raise RuntimeError(f"{problem}: status {child.returncode}\n{child.stderr}")
    return json.loads(child.stdout.splitlines()[-1])


def _peak(model: StepModel, batch: int, backend: str, contender: str) -> int:
    """Bytes of the step at its peak: weights, optimizer, inputs and all that a step adds."""
    before = start_counting()
    Step(model, batch, backend)(contender)
    return peak() - before


def _times(model: StepModel, batch: int, backend: str, contenders: Sequence[str], rounds: int) -> dict[str, Row]:
    """Milliseconds of the step and its parts, medians that add up, and the speed-up of each over the loop."""
    warm_up = Step(model, model.batches[0], backend)
    for contender in contenders:
        warm_up(contender)
    step = Step(model, batch, backend)
    samples = interleave(
        {each: (lambda each=each: step(each)) for each in contenders},
        rounds=rounds,
        allowance=lambda _: ALLOWANCE,
        warm_up=lambda _: False,  # the smallest batch was
    )
    times: dict[str, Row] = {}
    for contender, modes in samples.items():
        parts = {part: 1e3 * median(modes[part]) for part in PARTS}
        figures: Row = {"ms": sum(parts.values()), "parts_ms": parts}
        if "loop" in samples:
            figures["per_loop"] = ratio(samples["loop"]["step"], modes["step"])
        times[contender] = figures
    return times


def _texts(lengths: Sequence[int]) -> dict[str, Tensor]:
    """Reports of so many words of one piece each, [CLS] included; [SEP] follows and belongs to no word."""
    places, counts = torch.arange(max(lengths) + 1), torch.tensor(lengths)[:, None]
    ids = torch.randint(VOCABULARY, (len(lengths), len(places)))
    return {
        "input_ids": ids,
        "attention_mask": (places <= counts).long(),
        "word_ids": torch.where(places < counts, places, -1),
    }


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    asked["model"] = MODELS[asked["model"]]
    print(json.dumps(_peak(**asked) if "contender" in asked else _times(**asked)))
