"""The fused C++ kernels for CPU tensors: addresses go in, and nothing of the size of the affinities is ever stored."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch  # before _C: both must share torch's OpenMP runtime
from torch import Tensor

from gloria_ops.score import LocalScore

try:
    from gloria_ops import _C
except ImportError as error:
    _C = None  # type: ignore[assignment]
    _import_error = str(error)

name = "cpu"
caution = None
attended_of_any_length = True

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_WORD_NORMS = ("none", "softmax", "clipped_l2")
# Tests set it to prove every engine that this processor can run; otherwise the fastest is taken.
_isa: str | None = os.environ.get("GLORIA_OPS_ISA")

_stages: Tensor | None = None

# A forked child inherits the OpenMP runtime without its threads and would wait for them for ever; alone it works.
_forked = False


def _after_fork() -> None:
    global _forked
    _forked = True


os.register_at_fork(after_in_child=_after_fork)


def _threads() -> int:
    return 1 if _forked else torch.get_num_threads()


def _gradient(rows: Tensor, side: _C.Ragged) -> Tensor:
    """Memory for the gradient of `rows`, with zeros where it has rows that no item owns."""
    gradient = torch.empty_like(rows)
    if not side.fills(rows.shape[0]):
        # Not by torch: in a forked child it would share out the filling of a large tensor, and wait like us.
        ctypes.memset(gradient.data_ptr(), 0, gradient.nbytes)
    return gradient


def available_isas() -> list[str]:
    """Instruction sets this processor can run, fastest first (the emulated AMX, for tests, last)."""
    return _C.available_isas()


@contextmanager
def use_isa(isa: str) -> Iterator[None]:
    """Run the kernels on one instruction set; raises ValueError if the processor lacks it."""
    global _isa
    if isa not in available_isas():
        raise ValueError(f"isa={isa!r} is not available here: expected one of {available_isas()}")
    before, _isa = _isa, isa
    try:
        yield
    finally:
        _isa = before


def _chosen_isa() -> str:
    return _isa or available_isas()[0]


@contextmanager
def stage_nanoseconds() -> Iterator[Tensor]:
    """Collects where the kernels spend their time: int64 (stages,), nanoseconds summed over threads and calls.

    The stages are named by `_C.STAGES`; "waiting" is for other threads, and whatever no stage claims.
    """
    global _stages
    _stages = torch.zeros(len(_C.STAGES), dtype=torch.int64)
    try:
        yield _stages
    finally:
        _stages = None


def exponential(x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """e^x of contiguous float32 `x`, at most 88, as the kernels compute it for problems of `dtype`; on one thread."""
    if x.dtype != torch.float32 or not x.is_contiguous():
        raise ValueError(f"x is {x.dtype} with the strides {x.stride()}; expected float32, contiguous")
    out = torch.empty_like(x)
    _C.exponential(_dtype(dtype), x.data_ptr(), out.data_ptr(), x.numel(), _chosen_isa())
    return out


def describe() -> str:
    """One line for the doctor: the instruction sets found and the one that runs."""
    return f"instruction sets {', '.join(available_isas())}; runs on {_chosen_isa()}; {_threads()} threads"


def unavailable() -> str | None:
    """Why the backend cannot run here, and the fix; None if it can."""
    if _C is None:
        return f"the extension gloria_ops._C is missing ({_import_error}); build it by `pip install .` or `make setup`"
    return None


def unsupported(score: LocalScore, dtype: torch.dtype, device: torch.device) -> str | None:
    """Why this problem is not for this backend; None if it is. Every knob is fused but some of SCAN's word norms."""
    if device.type != "cpu":
        return f"it computes on CPU tensors, not on {device}"
    if dtype not in _DTYPES:
        return f"it takes float32, bfloat16 and float16, not {dtype}"
    if score.word_norm not in _WORD_NORMS:
        return f"it lacks word_norm={score.word_norm!r}: it has {', '.join(map(repr, _WORD_NORMS))}"
    return None


def _dtype(dtype: torch.dtype) -> _C.DType:
    return getattr(_C.DType, str(dtype).removeprefix("torch."))


def _ragged(rows: Tensor, starts: Tensor, lengths: Tensor) -> tuple[_C.Ragged, tuple[Tensor, ...]]:
    """One side for the kernels, and the tensors that must outlive the call. The last guard before raw addresses."""
    rows, starts, lengths = rows.contiguous(), starts.contiguous(), lengths.contiguous()
    if rows.dim() != 2 or starts.dim() != 1 or starts.shape != lengths.shape:
        shapes = f"{tuple(rows.shape)}, {tuple(starts.shape)} and {tuple(lengths.shape)}"
        raise ValueError(f"rows, starts and lengths have the shapes {shapes}; expected (L, D), (N,) and (N,)")
    if starts.dtype != torch.int64 or lengths.dtype != torch.int64:
        raise TypeError(f"starts are {starts.dtype} and lengths {lengths.dtype}; expected int64: .long()")
    side = _C.Ragged(rows.data_ptr(), starts.data_ptr(), lengths.data_ptr(), starts.numel(), rows.shape[0])
    return side, (rows, starts, lengths)


def _problem(
    images: _C.Ragged, texts: _C.Ragged, regions: Tensor, words: Tensor, score: LocalScore, search_words: int = 0
) -> _C.Problem:
    if regions.shape[1] != words.shape[1] or regions.dtype != words.dtype:
        raise ValueError(
            f"regions are {regions.shape[1]} wide {regions.dtype} and words {words.shape[1]} wide {words.dtype}; "
            "expected one width and one dtype"
        )
    return _C.Problem(
        dtype=_dtype(regions.dtype),
        dim=regions.shape[1],
        images=images,
        texts=texts,
        word_norm=getattr(_C.WordNorm, score.word_norm),
        attention_scale=score.attention_scale,
        cosine=score.similarity == "cosine",
        pool=getattr(_C.Pool, score.pool),
        word_scale=score.word_scale,
        pool_mean=score.pool_mean,
        pool_divide=score.pool_divide,
        search_words=search_words,
        threads=_threads(),
        stage_nanoseconds=0 if _stages is None else _stages.data_ptr(),
    )


def forward(
    regions: Tensor,
    region_starts: Tensor,
    region_lengths: Tensor,
    words: Tensor,
    word_starts: Tensor,
    word_lengths: Tensor,
    score: LocalScore,
    search_words: int = 0,
) -> Tensor:
    """Scores (N_v, N_t) float32 of rows `regions` (L_v, D) and `words` (L_t, D), words attending to regions.

    `search_words` > 0: the images are part of a corpus, and so many words in all are searched for in each of them. The
    way to the contexts' norms is then the cheaper one for so many; in a batch it depends on M and D alone.
    """
    images, (regions, *kept_regions) = _ragged(regions, region_starts, region_lengths)
    texts, (words, *kept_words) = _ragged(words, word_starts, word_lengths)
    scores = torch.empty(region_starts.numel(), word_starts.numel(), dtype=torch.float32)
    _C.forward(_problem(images, texts, regions, words, score, search_words), scores.data_ptr(), _chosen_isa())
    del kept_regions, kept_words
    return scores


def backward(
    grad_scores: Tensor,
    regions: Tensor,
    region_starts: Tensor,
    region_lengths: Tensor,
    words: Tensor,
    word_starts: Tensor,
    word_lengths: Tensor,
    score: LocalScore,
) -> tuple[Tensor, Tensor]:
    """Gradients with the shape and dtype of `regions` and `words`; rows that belong to no item get zeros."""
    images, (regions, *kept_regions) = _ragged(regions, region_starts, region_lengths)
    texts, (words, *kept_words) = _ragged(words, word_starts, word_lengths)
    if grad_scores.shape != (region_starts.numel(), word_starts.numel()):
        raise ValueError(
            f"grad_scores has the shape {tuple(grad_scores.shape)}; expected "
            f"{(region_starts.numel(), word_starts.numel())}, images by texts"
        )
    grad_scores = grad_scores.to(torch.float32).contiguous()
    grad_regions, grad_words = _gradient(regions, images), _gradient(words, texts)
    _C.backward(
        _problem(images, texts, regions, words, score),
        grad_scores.data_ptr(),
        grad_regions.data_ptr(),
        grad_words.data_ptr(),
        _chosen_isa(),
    )
    del kept_regions, kept_words
    return grad_regions, grad_words
