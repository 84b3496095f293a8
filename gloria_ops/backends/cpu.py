"""Calls the fused C++ kernels for CPU tensors by addresses; nothing of the size of the affinities is stored."""

from __future__ import annotations  # _C may be missing

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch  # before _C: both must share torch's OpenMP runtime
from torch import Tensor

from gloria_ops.learnable import FIXED, Learnable
from gloria_ops.score import LocalScore
from gloria_ops.tokens import Ragged

try:
    from gloria_ops import _C
except ImportError as error:
    _C = None  # type: ignore[assignment]
    _import_error = str(error)

name = "cpu"
caution = None
differentiable = False
attended_of_any_length = True
keeps_best = True

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_WORD_NORMS = ("none", "softmax", "clipped_l2")
# `use_isa` sets it; without it GLORIA_OPS_ISA counts, and then the fastest runs.
_isa: str | None = None

_stages: Tensor | None = None

# A forked child inherits the OpenMP runtime without its threads, and would wait for them forever; one thread works.
_forked = False


def _after_fork() -> None:
    global _forked
    _forked = True


os.register_at_fork(after_in_child=_after_fork)


def _threads() -> int:
    return 1 if _forked else torch.get_num_threads()


def available_isas() -> list[str]:
    """Return the instruction sets of this processor, fastest first (the emulated AMX, for tests, last)."""
    return _C.available_isas()


@contextmanager
def use_isa(isa: str) -> Iterator[None]:
    """Run the kernels on one instruction set; raises ValueError if the processor lacks it."""
    global _isa
    before, _isa = _isa, _checked_isa("isa", isa)
    try:
        yield
    finally:
        _isa = before


def _chosen_isa() -> str:
    return _isa or _default_isa()


@lru_cache  # for the latency of small problems
def _default_isa() -> str:
    asked = os.environ.get("GLORIA_OPS_ISA")
    return _checked_isa("GLORIA_OPS_ISA", asked) if asked else available_isas()[0]


def _checked_isa(name: str, isa: str) -> str:
    if isa not in available_isas():
        raise ValueError(f"{name} is {isa!r}; expected one of {', '.join(available_isas())}, which this processor has")
    return isa


@contextmanager
def stage_nanoseconds() -> Iterator[Tensor]:
    """Measure the time of the kernels' stages: int64 (stages,), nanoseconds summed over threads and calls.

    `_C.STAGES` names the stages; "waiting" is time spent on other threads, or in no stage.
    """
    global _stages
    _stages = torch.zeros(len(_C.STAGES), dtype=torch.int64)
    try:
        yield _stages
    finally:
        _stages = None


def exponential(x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return e^x of contiguous float32 `x`, at most 88, by the kernels' code for problems of `dtype`; on one thread."""
    if x.dtype != torch.float32 or not x.is_contiguous():
        raise ValueError(f"x is {x.dtype} with the strides {x.stride()}; expected float32, contiguous")
    out = torch.empty_like(x)
    _C.exponential(_dtype(dtype), x.data_ptr(), out.data_ptr(), x.numel(), _chosen_isa())
    return out


def describe() -> str:
    """Return a line for the doctor: the available instruction sets, and the one that runs."""
    return f"instruction sets {', '.join(available_isas())}; runs on {_chosen_isa()}; threads: {_threads()}"


def unavailable() -> str | None:
    """Return why the backend cannot run here, and the fix; None if it can."""
    if _C is None:
        return f"the extension gloria_ops._C is missing ({_import_error}); build it by `pip install .` or `make setup`"
    return None


def unsupported(
    score: LocalScore, dtype: torch.dtype, device: torch.device, learnable: Learnable = FIXED
) -> str | None:
    """Why this problem is not for this backend; None if it is. Every knob is fused but some of SCAN's word norms."""
    if device.type != "cpu":
        return f"it computes on CPU tensors, not on {device}"
    if dtype not in _DTYPES:
        return f"it takes float32, bfloat16 and float16, not {dtype}"
    if score.word_norm not in _WORD_NORMS:
        return f"it lacks word_norm={score.word_norm!r}: it has {', '.join(map(repr, _WORD_NORMS))}"
    return None


@lru_cache  # for the latency of small problems
def _dtype(dtype: torch.dtype) -> _C.DType:
    return getattr(_C.DType, str(dtype).removeprefix("torch."))


def _with_addresses(side: Ragged) -> tuple[Ragged, _C.Ragged]:
    """Return the side as the kernels read it, after the last checks before raw addresses; it must outlive the call."""
    rows, starts, lengths = side
    if rows.dim() != 2 or starts.dim() != 1 or starts.shape != lengths.shape:
        shapes = f"{tuple(rows.shape)}, {tuple(starts.shape)} and {tuple(lengths.shape)}"
        raise ValueError(f"rows, starts and lengths have the shapes {shapes}; expected (L, D), (N,) and (N,)")
    if starts.dtype != torch.int64 or lengths.dtype != torch.int64:
        raise TypeError(f"starts are {starts.dtype} and lengths {lengths.dtype}; expected int64: .long()")
    if not (rows.is_contiguous() and starts.is_contiguous() and lengths.is_contiguous()):
        side = rows, starts, lengths = Ragged(rows.contiguous(), starts.contiguous(), lengths.contiguous())
    return side, _C.Ragged(rows.data_ptr(), starts.data_ptr(), lengths.data_ptr(), starts.numel(), rows.shape[0])


def _problem(
    attended: Tensor,
    attending: Tensor,
    images: _C.Ragged,
    texts: _C.Ragged,
    score: LocalScore,
    search_words: int,
    learnable: Learnable,
) -> _C.Problem:
    """Describe a problem for the kernels, which call attended items images and attending items texts."""
    width, dtype = attended.shape[1], attended.dtype
    if attending.shape[1] != width or attending.dtype != dtype:
        raise ValueError(
            f"attended rows are {width} wide {dtype} and attending rows {attending.shape[1]} wide {attending.dtype}; "
            "expected one width and one dtype"
        )
    return _C.Problem(
        dtype=_dtype(dtype),
        dim=width,
        images=images,
        texts=texts,
        word_norm=getattr(_C.WordNorm, score.word_norm),
        attention_scale=_scale(score.attention_scale, learnable.attention_scale),
        cosine=score.similarity == "cosine",
        pool=getattr(_C.Pool, score.pool),
        word_scale=_scale(score.word_scale, learnable.word_scale),
        pool_mean=score.pool_mean,
        pool_divide=score.pool_divide,
        search_words=search_words,
        threads=_threads(),
        stage_nanoseconds=_address(_stages),
        smooth_max=score.similarity == "smooth_max",
        word_weights=_address(learnable.word_weights),
    )


def _scale(number: float, learned: Tensor | None) -> float:
    return number if learned is None else learned.item()


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _with_weights(learnable: Learnable, attending: Tensor) -> Learnable:
    """With weights that kernels read from their address, one for each row; they must outlive the call."""
    weights = learnable.word_weights
    if weights is None:
        return learnable
    if weights.shape != attending.shape[:1] or weights.dtype != torch.float32:
        raise ValueError(
            f"word_weights are {weights.dtype} of the shape {tuple(weights.shape)}; expected float32 of the shape "
            f"{tuple(attending.shape[:1])}"
        )
    return learnable._replace(word_weights=weights.contiguous())


def _gradient(rows: Tensor, side: _C.Ragged) -> Tensor:
    """Allocate the gradient of `rows`, with zeros in rows that no item owns."""
    gradient = torch.empty_like(rows)
    if not side.fills(rows.shape[0]):
        _clear(gradient)
    return gradient


def _clear(tensor: Tensor) -> None:
    # Not by torch: in a forked child it would fill a large tensor with several threads, and wait forever.
    ctypes.memset(tensor.data_ptr(), 0, tensor.nbytes)


def _kept(best: Tensor | None, attended: Ragged, attending: Ragged) -> _C.Kept:
    """Return `best` as the kernels take it, checked."""
    if best is None:
        return _C.Kept(0, 0)
    expected = (attended.starts.numel(), attending.rows.shape[0])
    if best.shape != expected or best.dtype != torch.int32 or not best.is_contiguous():
        raise ValueError(
            f"best is {best.dtype} of the shape {tuple(best.shape)} and the strides {best.stride()}; expected int32 of "
            f"the shape {expected}, contiguous"
        )
    return _C.Kept(best.data_ptr(), expected[1])


def forward(
    attended: Ragged,
    attending: Ragged,
    score: LocalScore,
    search_words: int = 0,
    learnable: Learnable = FIXED,
    best: Tensor | None = None,
) -> Tensor:
    """Return scores (N, T) float32 of N attended items with T attending ones; fill `best`.

    With `search_words` above 0, the contexts' norms are computed in the cheaper way for this many words; in a batch the
    way depends on M and D alone.
    """
    attended, images = _with_addresses(attended)
    attending, texts = _with_addresses(attending)
    scores = torch.empty(attended.starts.numel(), attending.starts.numel(), dtype=torch.float32)
    learnable = _with_weights(learnable, attending.rows)
    problem = _problem(attended.rows, attending.rows, images, texts, score, search_words, learnable)
    kept = _kept(best, attended, attending)
    if best is not None and not texts.fills(attending.rows.shape[0]):
        _clear(best)  # torch.library.opcheck compares what equal calls return
    _C.forward(problem, scores.data_ptr(), kept, _chosen_isa())
    return scores


def backward(
    grad_scores: Tensor,
    attended: Ragged,
    attending: Ragged,
    score: LocalScore,
    learnable: Learnable = FIXED,
    best: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Return gradients of both sides' rows and of `learnable.given`; rows that belong to no item get zeros."""
    attended, images = _with_addresses(attended)
    attending, texts = _with_addresses(attending)
    expected = (attended.starts.numel(), attending.starts.numel())
    if grad_scores.shape != expected:
        raise ValueError(
            f"grad_scores has the shape {tuple(grad_scores.shape)}; expected {expected}, attended by attending items"
        )
    grad_scores = grad_scores.to(torch.float32).contiguous()
    grad_attended, grad_attending = _gradient(attended.rows, images), _gradient(attending.rows, texts)
    learnable = _with_weights(learnable, attending.rows)
    weights, *scales = learnable
    grad_weights = None if weights is None else _gradient(weights, texts)
    grad_attention_scale, grad_word_scale = (
        None if each is None else torch.empty((), dtype=torch.float64) for each in scales
    )
    _C.backward(
        _problem(attended.rows, attending.rows, images, texts, score, 0, learnable),
        grad_scores.data_ptr(),
        _kept(best, attended, attending),
        grad_attended.data_ptr(),
        grad_attending.data_ptr(),
        _address(grad_weights),
        _address(grad_attention_scale),
        _address(grad_word_scale),
        _chosen_isa(),
    )
    found = Learnable(grad_weights, grad_attention_scale, grad_word_scale).to(torch.float32)
    return grad_attended, grad_attending, *found.given
