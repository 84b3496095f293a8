"""Times searches of a corpus of images beside the batch of N x N that the kernels are made for, and eager PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

from bench.cases import DTYPES, Case, make_inputs
from bench.peers import Contender, eager, fused
from bench.timing import Sampler, interleave, ratio, sample_step
from gloria_ops import TopK, local_topk

Row = dict[str, Any]
Key = tuple[str, str, int]  # (contender, dtype, queries)
Search = Callable[[], TopK]

BEST = 10
# Seconds of one contender with one number of queries in one dtype; eager PyTorch has less, so that a run ends.
ALLOWANCE = {"eager": 3.0}
ALLOWANCE_OF_OTHERS = 6.0
# Eager PyTorch is slower by an order of magnitude, and more queries would take it a minute a turn.
MOST_QUERIES_OF_EAGER = 10


def measure(
    batch: Case,
    corpus: int,
    queries: tuple[int, ...],
    *,
    backend: str,
    dtypes: tuple[str, ...] = ("float32", "bfloat16"),
    rounds: int,
) -> list[Row]:
    """Rows of `batch` itself and of searches of `corpus` images like its own, in each dtype, from the same rounds."""
    samplers: dict[Key, Sampler] = {}
    for dtype in dtypes:
        samplers["N x N", dtype, batch.batch] = partial(sample_step, batch_forward(batch, dtype, backend))
        images = make_images(batch, corpus, dtype)
        for count in queries:
            for name, search in searches(batch, images, count, backend).items():
                samplers[name, dtype, count] = partial(sample_step, search)
    samples = interleave(
        samplers,
        rounds=rounds,
        allowance=lambda key: ALLOWANCE.get(key[0], ALLOWANCE_OF_OTHERS),
        warm_up=lambda key: key[0] != "eager",
    )
    rows = []
    for (name, dtype, count), times in samples.items():
        against = batch.batch if name == "N x N" else corpus
        of_batch = samples["N x N", dtype, batch.batch]["forward"]
        label = {"contender": name, "dtype": dtype, "queries": count, "corpus": against}
        rows.append(label | _figures(replace(batch, batch=count), against, times["forward"], batch, of_batch))
    return rows


def batch_forward(batch: Case, dtype: str, backend: str) -> Callable[[], Tensor]:
    """The scores of the batch without gradients."""
    contender = fused(batch, make_inputs(batch).to(DTYPES[dtype]), backend)
    return torch.no_grad()(partial(contender.scores, *contender.leaves))


def make_images(batch: Case, corpus: int, dtype: str) -> Tensor:
    """(corpus, M, D) regions, distributed as those of the batch."""
    return make_inputs(replace(batch, batch=corpus)).to(DTYPES[dtype]).regions


def searches(batch: Case, images: Tensor, queries: int, backend: str) -> dict[str, Search]:
    """The fused search for `queries` texts, and the eager one where it ends in time."""
    inputs = make_inputs(replace(batch, batch=queries), seed=1).to(images.dtype)
    best = min(BEST, len(images))
    built: dict[str, Search] = {
        "fused": partial(
            local_topk,
            inputs.words,
            images,
            best,
            of="images",
            query_lengths=inputs.lengths,
            score=batch.score,
            backend=backend,
        )
    }
    if queries <= MOST_QUERIES_OF_EAGER:
        built["eager"] = partial(_eager_topk, eager(batch, inputs), images, best, batch.batch)
    return built


@torch.no_grad()
def _eager_topk(peer: Contender, images: Tensor, best: int, at_once: int) -> TopK:
    """As many images at a time as the batch has, or the affinities would not fit; the scores are all kept."""
    scores = torch.cat([peer.scores(some, peer.words) for some in images.split(at_once)])
    return TopK(*scores.T.topk(best))


def _figures(asked: Case, corpus: int, times: list[float], batch: Case, of_batch: list[float]) -> Row:
    flops = asked.flops("forward") // asked.batch * corpus
    return {
        "preset": asked.preset,
        "regions": asked.regions,
        "width": asked.width,
        "words": sum(asked.lengths),
        "ms": 1e3 * median(times),
        "scores_per_second": asked.batch * corpus / median(times),
        "gflops": flops / median(times) / 1e9,
        "percent_of_batch": 100 * flops / batch.flops("forward") * ratio(of_batch, times),
        "rounds_ms": [1e3 * seconds for seconds in times],
    }
