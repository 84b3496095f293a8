"""The CUDA C++ kernels for 16-bit tensors on GPUs from Ampere on; taken only where they are asked for by name.

Their kernels take regions padded to one number of rows for each image. Where that does not hold (an image longer than
L_v // N_v), its scores are NaN: lengths lie on the device and are not read.
"""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

from gloria_ops.backends.cuda import device as _gpu
from gloria_ops.backends.cuda import gradients, scores
from gloria_ops.learnable import FIXED, Learnable, lacks_knobs
from gloria_ops.score import LocalScore
from gloria_ops.tokens import Ragged

name = "cuda"
differentiable = False
attended_of_any_length = False
keeps_best = False
caution = (
    "gloria_ops takes its CUDA C++ kernels: they are proven by an emulation of their instructions and compiled for "
    "sm_80 and sm_90, but no run on a GPU is on record yet"
)

_DTYPES = (torch.bfloat16, torch.float16)
_WORD_NORMS = ("none", "softmax")
# What has cp.async and bf16 products.
_LEAST_CAPABILITY = (8, 0)
_cautioned = False


def describe() -> str:
    """One line for the doctor: what the kernels run on."""
    major, minor = torch.cuda.get_device_capability()
    return f"{torch.cuda.get_device_name()}, sm_{major}{minor}; by name only: no run on a GPU is on record"


def unavailable() -> str | None:
    """Why the backend cannot run here, and the fix; None if it can."""
    if _gpu.kernels is None:
        return (
            f"the extension gloria_ops._cuda is missing ({_gpu.import_error}); build with nvcc >= 12.4 in PATH, by "
            "`pip install .` or `make setup`"
        )
    if not _gpu.emulated and not torch.cuda.is_available():
        return "there is no CUDA device"
    return None


def unsupported(
    score: LocalScore, dtype: torch.dtype, device: torch.device, learnable: Learnable = FIXED
) -> str | None:
    """Why this problem is not for this backend; None if it is."""
    expected = "cpu" if _gpu.emulated else "cuda"
    if device.type != expected:
        return f"it computes on {expected} tensors, not on {device}"
    if expected == "cuda" and torch.cuda.get_device_capability(device) < _LEAST_CAPABILITY:
        return f"it needs compute capability 8.0, and {device} has {torch.cuda.get_device_capability(device)}"
    if dtype not in _DTYPES:
        return f"it takes bfloat16 and float16, not {dtype}"
    if score.word_norm not in _WORD_NORMS:
        return f"it lacks word_norm={score.word_norm!r}: it has {', '.join(map(repr, _WORD_NORMS))}"
    if score.direction != "t2i":
        return f"it lacks direction={score.direction!r}: it takes what attention runs over as padded to one length"
    if math.isinf(score.attention_scale) and (score.word_norm, score.similarity) != ("none", "dot"):
        return "it has the hard maximum for word_norm='none' with similarity='dot' only"
    return lacks_knobs(score, learnable)


def forward(
    attended: Ragged,
    attending: Ragged,
    score: LocalScore,
    search_words: int = 0,
    learnable: Learnable = FIXED,
    best: Tensor | None = None,
) -> Tensor:
    """Return scores (N, T) float32 of N attended items with T attending ones.

    The way to the contexts' norms depends on M and D alone, whatever `search_words` are.

    Raises:
        NotImplementedError: more regions an image than the kernels take.
    """
    _caution_once()
    with torch.cuda.device_of(attended.rows):
        return scores.forward(_contiguous(attended), _contiguous(attending), score)


def backward(
    grad_scores: Tensor,
    attended: Ragged,
    attending: Ragged,
    score: LocalScore,
    learnable: Learnable = FIXED,
    best: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Return the gradients of both sides' rows; waits for the device once, to read how many tiles the words fill.

    Raises:
        NotImplementedError: more regions an image than the kernels take.
    """
    _caution_once()
    with torch.cuda.device_of(attended.rows):
        return gradients.backward(grad_scores, _contiguous(attended), _contiguous(attending), score)


def _contiguous(side: Ragged) -> Ragged:
    return Ragged(*(each.contiguous() for each in side))


def _caution_once() -> None:
    global _cautioned
    if not _cautioned and not _gpu.emulated:
        _cautioned = True
        warnings.warn(caution, RuntimeWarning, stacklevel=3)
