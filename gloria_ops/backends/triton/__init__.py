"""The Triton kernels for CUDA tensors; under TRITON_INTERPRET=1, and only there, for CPU tensors.

Their kernels take regions padded to one number of rows for each image. Where that does not hold (an image longer than
L_v // N_v), its scores are NaN, as are those of a text of more than 2048 words: lengths lie on the device and are not
read.
"""

import math

import torch
from torch import Tensor

from gloria_ops.learnable import FIXED, Learnable
from gloria_ops.score import LocalScore
from gloria_ops.tokens import Ragged

try:
    from gloria_ops.backends.triton import block_sizes, gradients, scores
except ImportError as error:
    _import_error: str | None = str(error)
else:
    _import_error = None

name = "triton"
differentiable = False
attended_of_any_length = False
keeps_best = True
caution = (
    "gloria_ops takes its Triton kernels for CUDA tensors: they are proven under Triton's interpreter and compiled for "
    "sm_80 and sm_90, but no run on a GPU is on record yet; `make gpu-check` in a checkout proves them on yours, "
    "backend='reference' does without them"
)

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_WORD_NORMS = ("none", "softmax", "clipped_l2")
# What the tensor cores of Ampere are the first to take.
_LEAST_CAPABILITY = (8, 0)


def describe() -> str:
    """One line for the doctor: what the kernels run on."""
    if block_sizes.INTERPRETED:
        return "Triton's interpreter (TRITON_INTERPRET=1), on CPU tensors, for tests"
    major, minor = torch.cuda.get_device_capability()
    return f"{torch.cuda.get_device_name()}, sm_{major}{minor}"


def unavailable() -> str | None:
    """Why the backend cannot run here, and the fix; None if it can."""
    if _import_error is not None:
        return f"Triton does not import ({_import_error}); install triton >= 3.4"
    if block_sizes.INTERPRETED:
        return None
    if not torch.cuda.is_available():
        return "there is no CUDA device; for tests on CPU tensors set TRITON_INTERPRET=1 before Python starts"
    return None


def unsupported(
    score: LocalScore, dtype: torch.dtype, device: torch.device, learnable: Learnable = FIXED
) -> str | None:
    """Why this problem, whatever is learned of it, is not for this backend; None if it is."""
    expected = "cpu" if block_sizes.INTERPRETED else "cuda"
    if device.type != expected:
        under = "under TRITON_INTERPRET=1 " if block_sizes.INTERPRETED else ""
        return f"{under}it computes on {expected} tensors, not on {device}"
    if expected == "cuda" and torch.cuda.get_device_capability(device) < _LEAST_CAPABILITY:
        return f"it needs compute capability 8.0, and {device} has {torch.cuda.get_device_capability(device)}"
    return lacks(score, dtype)


def lacks(score: LocalScore, dtype: torch.dtype) -> str | None:
    """What of these the kernels lack on any device; None if they have both."""
    if dtype not in _DTYPES:
        return f"it takes float32, bfloat16 and float16, not {dtype}"
    if score.word_norm not in _WORD_NORMS:
        return f"it lacks word_norm={score.word_norm!r}: it has {', '.join(map(repr, _WORD_NORMS))}"
    if score.direction != "t2i":
        return f"it lacks direction={score.direction!r}: it takes what attention runs over as padded to one length"
    if math.isinf(score.attention_scale) and (score.word_norm != "none" or score.similarity == "cosine"):
        return "it has the hard maximum for word_norm='none' and without similarity='cosine' only"
    return None


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
    """
    with _device_of(attended.rows):
        return scores.forward(attended, attending, score, learnable=learnable, best=best)


def backward(
    grad_scores: Tensor,
    attended: Ragged,
    attending: Ragged,
    score: LocalScore,
    learnable: Learnable = FIXED,
    best: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Return gradients of both sides' rows and of `learnable.given`; rows that belong to no item get zeros."""
    grad_scores = grad_scores.to(torch.float32).contiguous()
    with _device_of(attended.rows):
        return gradients.backward(grad_scores, attended, attending, score, learnable=learnable, best=best)


def _device_of(rows: Tensor) -> torch.cuda.device_of:
    """Triton launches on the current device."""
    return torch.cuda.device_of(rows)
