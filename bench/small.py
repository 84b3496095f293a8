"""Times a problem of a few words, where a call counts more than its work, beside vectorized eager PyTorch."""

from __future__ import annotations

from functools import partial
from statistics import median
from typing import Any

from bench.cases import DTYPES, Case, make_inputs
from bench.peers import eager, fused
from bench.timing import Sampler, interleave, ratio, sample_modes

Row = dict[str, Any]

MODES = ("forward", "full")
MEASURED_DTYPES = ("float32", "bfloat16")


def measure(case: Case, *, backend: str, rounds: int) -> list[Row]:
    """Rows of the fused score of `case` in both dtypes and modes, and eager PyTorch's time from the same rounds."""
    samplers: dict[tuple[str, str], Sampler] = {}
    for dtype in MEASURED_DTYPES:
        inputs = make_inputs(case).to(DTYPES[dtype])
        for contender in (fused(case, inputs, backend), eager(case, inputs)):
            samplers[contender.name, dtype] = partial(sample_modes, contender, inputs.grad_scores)
    samples = interleave(samplers, rounds=rounds, allowance=lambda key: float("inf"), warm_up=lambda key: True)
    rows = []
    for dtype in MEASURED_DTYPES:
        for mode in MODES:
            ours, theirs = samples["fused", dtype][mode], samples["eager", dtype][mode]
            figures: Row = {"microseconds": 1e6 * median(ours), "eager_microseconds": 1e6 * median(theirs)}
            figures |= {"per_fused": ratio(theirs, ours), "rounds_microseconds": [1e6 * seconds for seconds in ours]}
            rows.append(case.label | {"dtype": dtype, "mode": mode} | figures)
    return rows
