"""What the fused score cannot be faster than, its products and exponentials, and where the rest of its time goes."""

from __future__ import annotations

import time
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

from bench.cases import DTYPES, Case, make_inputs
from bench.peers import Contender, bare_products, fused
from bench.timing import Sampler, interleave, ratio, sample_step
from gloria_ops.backends import cpu

Row = dict[str, Any]
# By (what is timed, dtype): a mode of the fused score, a bare product or one exponential; then seconds in each round.
Samples = dict[tuple[str, str], dict[str, list[float]]]

MODES = ("forward", "full")
MEASURED_DTYPES = ("float32", "bfloat16")
PRODUCTS = ("T Vᵀ", "V Tᵀ")
# Engines whose products of a bfloat16 problem are in bfloat16; the others widen its values and multiply in float32.
BFLOAT16_ENGINES = ("amx", "avx512_bf16", "amx_emulated")
# Seconds of a case for each sampler, so that a run ends also where torch emulates the product in bfloat16.
ALLOWANCE = 6.0
# Values of the array whose exponentials are timed: with the results 32 KiB, a first-level cache.
VALUES = 4096


def needed_flops(case: Case, mode: str) -> int:
    """Flops of the products that the kernels cannot do without: what is symmetric by its half, and no padding.

    Unlike `Case.flops`, which credits every contender with the formula, this follows csrc/cpu/forward.h and backward.h.
    For each affinity, and where the similarity is a cosine [for each image once]; M is at most 1.8 D:

        forward   S = T Vᵀ          2D      |c|² = e G eᵀ, upper half       M    [G = V Vᵀ, upper half   M² D]
        backward  S again           2D      e G, all of it is read          2M   [G again                M² D]
                  dV += dsᵀ T       2D      dG += (β e)ᵀ e, upper half      M    [dV += dG V             2 M² D]
                  dT += ds V        2D

    Forward makes G once more for each window of packed words, where the words fill several: that is no need.
    """
    forward, backward = 2 * case.width, 6 * case.width
    of_images = 0
    if case.score.similarity == "cosine":
        forward, backward = forward + case.regions, backward + 3 * case.regions
        of_images = case.batch * case.regions**2 * case.width * {"forward": 1, "full": 4}[mode]
    return case.affinities * {"forward": forward, "full": forward + backward}[mode] + of_images


def exponentials(case: Case, mode: str) -> int:
    """How many: one an affinity in the softmax over the regions, one over the words; backward computes them again."""
    each = 2 if case.score.word_norm == "softmax" else 1
    return case.affinities * each * {"forward": 1, "full": 2}[mode]


def measure(case: Case, *, rounds: int) -> list[Row]:
    """Rows of both dtypes and modes of `case` on the backend `cpu`, from the same rounds."""
    samplers: dict[tuple[str, str], Sampler] = {}
    for dtype in MEASURED_DTYPES:
        inputs = make_inputs(case).to(DTYPES[dtype])
        contender = fused(case, inputs, "cpu")
        for mode in MODES:
            samplers[mode, dtype] = partial(sample_stages, contender, inputs.grad_scores, mode)
        for name, product in bare_products(inputs).items():
            samplers[name, dtype] = partial(sample_step, product)
        samplers["exponential", dtype] = partial(sample_exponential, DTYPES[dtype])
    samples = interleave(samplers, rounds=rounds, allowance=lambda key: ALLOWANCE, warm_up=lambda key: True)
    return [make_row(case, dtype, mode, samples) for dtype in MEASURED_DTYPES for mode in MODES]


def sample_stages(contender: Contender, grad_scores: Tensor, mode: str) -> dict[str, float]:
    """Seconds of one call as `total`, and of each stage within it: the threads' sum over their number."""
    with torch.set_grad_enabled(mode == "full"), cpu.stage_nanoseconds() as nanoseconds:
        start = time.perf_counter()
        scores = contender.scores(*contender.leaves)
        if mode == "full":
            torch.autograd.grad(scores, contender.leaves, grad_scores)
        total = time.perf_counter() - start
    of_stages = (nanoseconds / 1e9 / torch.get_num_threads()).tolist()
    return {"total": total} | dict(zip(cpu._C.STAGES, of_stages, strict=True))


def sample_exponential(dtype: torch.dtype, calls: int = 100) -> dict[str, float]:
    """Seconds of one exponential on one thread; a call with a single vector tells what the call itself costs."""
    many = torch.linspace(-20, 0, VALUES)
    few = many[:16]

    def seconds(x: Tensor) -> float:
        start = time.perf_counter()
        for _ in range(calls):
            cpu.exponential(x, dtype)
        return time.perf_counter() - start

    return {"forward": (seconds(many) - seconds(few)) / calls / (len(many) - len(few))}


def make_row(case: Case, dtype: str, mode: str, samples: Samples) -> Row:
    """One dtype and mode: its floor, what is left above it, and its stages; milliseconds."""
    total = samples[mode, dtype]["total"]
    bare = samples[_fastest(samples, dtype)]["forward"]
    limit = _fastest(samples, *_multiplied_in(dtype))
    limit_ms = 1e3 * median(samples[limit]["forward"])
    ms, floor_ms = 1e3 * median(total), limit_ms * needed_flops(case, mode) / case.product_flops()
    exponential_ns = 1e9 * median(samples["exponential", dtype]["forward"])
    exponential_ms = exponentials(case, mode) * exponential_ns / 1e6 / torch.get_num_threads()
    stages = {name: 1e3 * median(samples[mode, dtype][name]) for name in cpu._C.STAGES}
    return case.label | {
        "dtype": dtype,
        "mode": mode,
        "ms": ms,
        "bare_ms": 1e3 * median(bare),
        "per_bare": ratio(total, bare),
        "limit": " ".join(reversed(limit)),
        "limit_ms": limit_ms,
        "floor_ms": floor_ms,
        "exponentials": exponentials(case, mode),
        "exponential_ns": exponential_ns,
        "exponential_ms": exponential_ms,
        "left_ms": ms - floor_ms - exponential_ms,
        "stages_ms": stages,
        "outside_ms": ms - sum(stages.values()),
        "rounds_ms": [1e3 * seconds for seconds in total],
    }


def _multiplied_in(dtype: str) -> tuple[str, ...]:
    """The dtypes whose bare product limits a problem of `dtype`: torch may only emulate the product in bfloat16."""
    in_bfloat16 = dtype == "bfloat16" and cpu._chosen_isa() in BFLOAT16_ENGINES
    return ("float32", "bfloat16") if in_bfloat16 else ("float32",)


def _fastest(samples: Samples, *dtypes: str) -> tuple[str, str]:
    """The faster bare product, T Vᵀ or V Tᵀ, over `dtypes`."""
    products = [(name, dtype) for name in PRODUCTS for dtype in dtypes]
    return min(products, key=lambda product: median(samples[product]["forward"]))
