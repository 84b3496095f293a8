"""Times every contender of one case side by side: ms, algorithmic GFLOP/s, percent of the bare product, ratios."""

from __future__ import annotations

from functools import partial
from statistics import median
from typing import Any

import torch

from bench.cases import DTYPES, MODES, Case, make_inputs
from bench.peers import Builder, bare_products, compiled, does_not_fit, eager, fused, loop
from bench.timing import Sampler, interleave, ratio, sample_modes, sample_step

Row = dict[str, Any]
Samples = dict[tuple[str, str], dict[str, list[float]]]  # by (contender, dtype), then by mode: seconds in each round

# Seconds of a case for one contender in one dtype; the large peers have less, so that a run ends within ten minutes.
ALLOWANCE = {"loop": 15.0, "eager": 4.0, "compiled": 4.0}
ALLOWANCE_OF_OTHERS = 8.0


def measure(case: Case, *, backend: str, dtypes: tuple[str, ...] = ("float32", "bfloat16"), rounds: int) -> list[Row]:
    """Rows of all contenders, dtypes and modes of `case`, from the same rounds; what does not fit has no figures."""
    torch.compiler.reset()  # compiled code is counted by function, and the limit is reached after two cases
    samplers: dict[tuple[str, str], Sampler] = {}
    left_out = {}
    builders: dict[str, Builder] = {
        "fused": partial(fused, backend=backend), "loop": loop, "eager": eager, "compiled": compiled
    }  # fmt: skip
    for dtype in dtypes:
        inputs = make_inputs(case).to(DTYPES[dtype])
        for name, build in builders.items():
            if why := does_not_fit(name, case, DTYPES[dtype]):
                left_out[name, dtype] = why
                continue
            samplers[name, dtype] = partial(sample_modes, build(case, inputs), inputs.grad_scores)
        for name, product in bare_products(inputs).items():
            samplers[name, dtype] = partial(sample_step, product)
    samples = interleave(
        samplers,
        rounds=rounds,
        allowance=lambda key: ALLOWANCE.get(key[0], ALLOWANCE_OF_OTHERS),
        warm_up=lambda key: key[0] not in ("loop", "eager"),
    )
    rows = [row for dtype in dtypes for row in _rows(case, dtype, samples)]
    return rows + [_label(case, dtype, name) | {"left_out": why} for (name, dtype), why in left_out.items()]


def _rows(case: Case, dtype: str, samples: Samples) -> list[Row]:
    bare = min(("T Vᵀ", "V Tᵀ"), key=lambda name: median(samples[name, dtype]["forward"]))
    product = samples[bare, dtype]["forward"]
    limit = _figures(product, product, case.product_flops(), case.product_flops())
    rows = [_label(case, dtype, f"bare {bare}") | {"mode": "forward"} | limit]
    for name in ("fused", "loop", "eager", "compiled"):
        for mode in MODES if (name, dtype) in samples else ():
            times = samples[name, dtype][mode]
            figures = _figures(times, product, case.flops(mode), case.product_flops())
            per_fused = {other: ratio(times, ours[mode]) for (one, other), ours in samples.items() if one == "fused"}
            rows.append(_label(case, dtype, name) | {"mode": mode} | figures | {"per_fused": per_fused})
    return rows


def _label(case: Case, dtype: str, contender: str) -> Row:
    return case.label | {"dtype": dtype, "contender": contender}


def _figures(times: list[float], product: list[float], flops: int, product_flops: int) -> Row:
    return {
        "ms": 1e3 * median(times),
        "gflops": flops / median(times) / 1e9,
        "percent_of_bare": 100 * flops / product_flops * ratio(product, times),
        "rounds_ms": [1e3 * seconds for seconds in times],
    }
