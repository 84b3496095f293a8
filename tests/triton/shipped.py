"""Every kernel configuration that ships, as what Triton compiles: used by the test that holds them to their device."""

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import triton.language as tl

from gloria_ops import LocalScore
from gloria_ops.backends.triton import products, settings, tiles
from gloria_ops.backends.triton.backward_kernels import affinity_gradient_kernel, word_gradient_kernel
from gloria_ops.backends.triton.forward_kernel import forward_kernel
from gloria_ops.backends.triton.gram_kernel import gram_kernel
from gloria_ops.backends.triton.launch import Problem
from gloria_ops.backends.triton.pool_kernel import pool_kernel

SCORES = {
    "paper": LocalScore.paper(0.1, 0.1),
    "released": LocalScore.released(),
    "scan_t2i": LocalScore.scan_t2i(),
    "maxsim": LocalScore.maxsim(),
    "none, cosine": LocalScore(word_norm="none"),
    "softmax, dot": LocalScore(similarity="dot"),
}
# dtype and, for float32, the matmul precision that torch is asked for
DTYPES = {"bfloat16": None, "float16": None, "float32 highest": "highest", "float32 high": "high"}
_NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
_INT64 = ("region_starts", "region_lengths", "word_starts", "word_lengths")
_INT32 = ("tile_rows", "slot_texts", "tile_spans", "tile_count", "parts", "by_kind", "tiles_of_way", "used")
_FLOAT32 = (
    "word_norms", "levels", "similarities", "word_statistics", "coefficients", "sums", "grad_gram",
    "grad_scores", "scores",
)  # fmt: skip
_COUNTS = ("first_image", "images", "first_tile", "tiles", "longest", "width", "texts", "longest_text", "ways")


class Case(NamedTuple):
    name: str
    kernel: Any
    capability: int
    types: dict[str, str]
    constants: dict[str, Any]
    blocks: settings.Blocks
    tensor_cores: bool


def cases(capability: int) -> Iterator[Case]:
    """Each once: many scores share a kernel."""
    seen = set()
    for case in _all(capability):
        arguments = tuple(case.types.get(name) or case.constants[name] for name in case.kernel.arg_names)
        key = (case.kernel.__name__, arguments, case.blocks)
        if key not in seen:
            seen.add(key)
            yield case


def _all(capability: int) -> Iterator[Case]:
    for dtype_name, asked in DTYPES.items():
        dtype = getattr(torch, dtype_name.split()[0])
        precision = settings.precision(dtype, asked)
        for score_name, score in SCORES.items():
            if dtype != torch.bfloat16 and score_name not in ("paper", "released"):
                continue
            choice = settings.chosen(capability // 10, dtype, score)
            problem = Problem(*[None] * 6, score, choice, precision, 0, 0)
            yield from _of_problem(f"sm_{capability} {dtype_name} {score_name}", capability, dtype, problem)
    yield Case(
        f"sm_{capability} share_kernel", tiles._share_kernel, capability, _types(dtype, dtype), {"SLOTS": 8},
        settings.Blocks(0, 0, 0, 4, 2), False,
    )  # fmt: skip


def _of_problem(name: str, capability: int, dtype: torch.dtype, problem: Problem) -> Iterator[Case]:
    types = _types(dtype, problem.precision.scratch)
    score, choice, square = problem.score, problem.blocks, problem.precision.square
    cosine = score.similarity == "cosine"
    known = {"UPCAST": False, "SCRATCH": tl.bfloat16 if dtype == torch.bfloat16 else tl.float32}
    known |= {"BOUNDED": problem.bounded, "SPLIT": dtype != torch.float32}
    known |= {"POOL": score.pool, "POOL_MEAN": score.pool_mean, "POOL_DIVIDE": score.pool_divide}

    def case(kernel: Any, blocks: settings.Blocks, note: str = "", **constants: Any) -> Case:
        every = known | problem.constants(blocks) | {"B": blocks.columns} | constants
        constants = {name: value for name, value in every.items() if name in kernel.arg_names}
        exact = "ieee" in (constants.get("PRECISION"), constants.get("SQUARE_PRECISION")) and dtype == torch.float32
        products_in_it = "K" in kernel.arg_names and not (kernel is products.finish_kernel and not cosine)
        return Case(
            f"{name} {kernel.__name__}{note}",
            kernel,
            capability,
            types,
            constants,
            blocks,
            products_in_it and not exact,
        )

    for by_gram, keep in itertools.product((True, False) if cosine else (False,), (False, True)):
        if by_gram or not keep or not cosine:
            note = f" {'gram' if by_gram else 'direct'}{' for backward' if keep else ''}"
            # Backward always takes the Gram matrix; without the cosine there is none.
            yield case(forward_kernel, choice.forward, note, GRAM=by_gram or keep, KEEP=keep)
    yield case(word_gradient_kernel, choice.forward)
    yield case(affinity_gradient_kernel, choice.gradient)
    yield case(pool_kernel, choice.forward, C=128)
    if cosine:
        yield case(gram_kernel, choice.product)
        yield case(products.gram_gradient_kernel, choice.product, PRECISION=square, C=choice.forward.columns)
    yield case(products.finish_kernel, choice.product, PRECISION=square)
    yield case(products.words_kernel, choice.product, PRECISION=square, C=choice.forward.columns)
    yield case(products.regions_kernel, choice.product, PRECISION=square, C=choice.forward.columns)


def _types(dtype: torch.dtype, scratch: torch.dtype) -> dict[str, str]:
    types = dict.fromkeys(_INT64, "*i64:16") | dict.fromkeys(_INT32, "*i32:16")
    types |= dict.fromkeys(_FLOAT32, "*fp32:16") | dict.fromkeys(_COUNTS, "i32")
    types |= dict.fromkeys(("regions", "words", "grad_regions", "grad_words"), f"*{_NAMES[dtype]}:16")
    types |= dict.fromkeys(("gram", "attended", "gradient"), f"*{_NAMES[scratch]}:16")
    return types | {
        "rest": "*bf16:16",
        "dim": "i32:16",
        "side": "i32:16",
        "attention_scale": "fp32",
        "word_scale": "fp32",
    }
