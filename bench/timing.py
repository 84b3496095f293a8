"""Times several functions in turn, in one process: machines drift by a factor of two, so only neighbors compare."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import TypeVar

import torch
from torch import Tensor

from bench.peers import Contender

Sampler = Callable[[], dict[str, float]]
K = TypeVar("K")


def sample_modes(contender: Contender, grad_scores: Tensor) -> dict[str, float]:
    """Seconds of one forward without gradients, and of one backward and one forward+backward with them."""
    start = time.perf_counter()
    with torch.no_grad():
        contender.scores(*contender.leaves)
    forward = time.perf_counter() - start

    start = time.perf_counter()
    scores = contender.scores(*contender.leaves)
    scored = time.perf_counter()
    torch.autograd.grad(scores, contender.leaves, grad_scores.to(scores.dtype))
    end = time.perf_counter()
    return {"forward": forward, "backward": end - scored, "full": end - start}


def sample_step(step: Callable[[], object]) -> dict[str, float]:
    """Seconds of one call that has no backward, as the mode `forward`."""
    start = time.perf_counter()
    step()
    return {"forward": time.perf_counter() - start}


def interleave(
    samplers: dict[K, Sampler],
    *,
    rounds: int,
    allowance: Callable[[K], float],
    warm_up: Callable[[K], bool],
    share: float = 0.25,
) -> dict[K, dict[str, list[float]]]:
    """Run every sampler in turn, A B C A B C …, and return its seconds in each round: `samples[key][mode][round]`.

    Args:
        samplers: what is timed; each call returns the seconds of each of its modes.
        rounds: turns of each sampler; fewer for one that has used up its allowance.
        allowance: seconds after which a sampler sits out the rounds that are left; it always has one turn.
        warm_up: whether a sampler first runs once without being counted, because it compiles or loads something.
        share: seconds for which a fast sampler repeats within its turn; the median of the repeats counts.
    """
    samples: dict[K, dict[str, list[float]]] = {key: {} for key in samplers}
    spent = dict.fromkeys(samplers, 0.0)
    for key in filter(warm_up, samplers):
        samplers[key]()
    for _ in range(rounds):
        for key, sampler in samplers.items():
            if spent[key] > allowance(key):
                continue
            start = time.perf_counter()
            turn = [sampler()]
            while time.perf_counter() - start < share:
                turn.append(sampler())
            spent[key] += time.perf_counter() - start
            for mode in turn[0]:
                samples[key].setdefault(mode, []).append(median(times[mode] for times in turn))
    return samples


def ratio(slower: list[float], faster: list[float]) -> float:
    """How many times longer `slower` takes: the median, over the rounds of both, of two times taken side by side."""
    return median(a / b for a, b in zip(slower, faster, strict=False))
