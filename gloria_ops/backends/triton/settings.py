"""Which block sizes a kernel runs with: a table by compute capability and dtype, no autotuning."""

import math
from typing import NamedTuple

import torch
import triton

from gloria_ops.score import LocalScore

# Known when triton is imported, as triton decides then; only the interpreter takes CPU tensors.
INTERPRETED = bool(triton.knobs.runtime.interpret)


class Blocks(NamedTuple):
    """R regions x C words, K of D (or of the regions) at a step; programs of the forward kernel on each SM."""

    regions: int
    words: int
    step: int
    warps: int
    stages: int
    programs: int


# By the major compute capability, the bits of an operand, and whether words stand alone: without word norm, with the
# dot product and the soft maximum, little but the product needs registers. tests/triton/checks_compiled.py holds each
# row to no spills and to the shared memory of its device.
TABLE: dict[tuple[int, int, bool], Blocks] = {
    (8, 16, True): Blocks(regions=128, words=128, step=32, warps=8, stages=3, programs=1),
    (8, 16, False): Blocks(regions=32, words=128, step=32, warps=8, stages=4, programs=1),
    (8, 32, True): Blocks(regions=64, words=64, step=16, warps=8, stages=2, programs=1),
    (8, 32, False): Blocks(regions=64, words=64, step=16, warps=8, stages=2, programs=1),
    (9, 16, True): Blocks(regions=128, words=128, step=64, warps=8, stages=3, programs=1),
    (9, 16, False): Blocks(regions=64, words=128, step=32, warps=8, stages=3, programs=1),
    (9, 32, True): Blocks(regions=64, words=64, step=16, warps=8, stages=3, programs=1),
    (9, 32, False): Blocks(regions=64, words=64, step=16, warps=8, stages=3, programs=1),
}
# Small, so that small tests have several blocks of everything.
_INTERPRETED = Blocks(regions=32, words=32, step=16, warps=4, stages=1, programs=1)


def blocks(device: torch.device, dtype: torch.dtype, score: LocalScore) -> Blocks:
    """The blocks for rows of `dtype` on `device`."""
    if INTERPRETED:
        return _INTERPRETED
    return chosen(torch.cuda.get_device_capability(device)[0], dtype, score)


def chosen(major: int, dtype: torch.dtype, score: LocalScore) -> Blocks:
    """The row of the table; capabilities beyond it run with those of the last in it."""
    major = min(major, max(known for known, _, _ in TABLE))
    alone = score.word_norm == "none" and score.similarity == "dot" and math.isfinite(score.attention_scale)
    return TABLE[major, 8 * dtype.itemsize, alone]


def programs(device: torch.device, blocks: Blocks) -> int:
    """Programs that run at once; each walks over many work items and owns a scratch."""
    if INTERPRETED:
        return 2
    return blocks.programs * torch.cuda.get_device_properties(device).multi_processor_count


class Precision(NamedTuple):
    """How products are taken: dtype of what lies between two products, and Triton's precision of each kind."""

    scratch: torch.dtype
    affinity: str
    square: str


def precision(dtype: torch.dtype, float32: str | None = None) -> Precision:
    """float32 rows follow torch.get_float32_matmul_precision(): "highest" is exact, below it three TF32 products.

    float16 rows keep float32 scratch, multiplied as TF32: the same mantissa, but |v|^2 may exceed 65504.
    """
    if dtype == torch.bfloat16:
        return Precision(torch.bfloat16, "ieee", "ieee")
    if dtype == torch.float16:
        return Precision(torch.float32, "ieee", "tf32")
    exact = (float32 or torch.get_float32_matmul_precision()) == "highest"
    return Precision(torch.float32, *(("ieee", "ieee") if exact else ("tf32x3", "tf32x3")))
