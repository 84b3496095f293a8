"""Times the contrastive loss and its gradients for a batch and for a much larger one: does the rate hold?"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from statistics import median
from typing import Any

import torch

from bench.cases import Case, make_inputs
from bench.timing import Sampler, interleave
from gloria_ops import local_contrastive_loss

Row = dict[str, Any]

# Seconds for which a batch that is short of them repeats; a large one takes minutes and runs once.
SHARE = 10.0


def measure(cases: Sequence[Case], *, backend: str, share: float = SHARE) -> list[Row]:
    """Rows of `cases` in float32, one after the other in one process, their rates beside that of the first.

    Only the first is warmed up: there is one process, and it wakes the threads and loads what is lazy for all.
    """
    samplers: dict[Case, Sampler] = {case: make_sampler(case, backend) for case in cases}
    samples = interleave(
        samplers, rounds=1, allowance=lambda case: float("inf"), warm_up=lambda case: case is cases[0], share=share
    )
    rates = {case: case.flops("full") / median(samples[case]["full"]) for case in cases}
    return [
        case.label
        | {
            "dtype": "float32",
            "mode": "full",
            "ms": 1e3 * median(samples[case]["full"]),
            "gflops": rate / 1e9,
            "per_first": rate / rates[cases[0]],
        }
        for case, rate in rates.items()
    ]


def make_sampler(case: Case, backend: str) -> Sampler:
    """Seconds of one training step of the loss, forward and backward."""
    inputs = make_inputs(case)
    leaves = inputs.regions.requires_grad_(), inputs.words.requires_grad_()
    loss = partial(local_contrastive_loss, *leaves, word_lengths=inputs.lengths, score=case.score, backend=backend)

    def sample() -> dict[str, float]:
        start = time.perf_counter()
        image_to_text, text_to_image = loss()
        torch.autograd.grad(image_to_text + text_to_image, leaves)
        return {"full": time.perf_counter() - start}

    return sample
