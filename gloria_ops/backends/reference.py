"""Makes the formulas in eager PyTorch a backend: every score, dtype and device, differentiable any number of times."""

import torch
from torch import Tensor

from gloria_ops import reference
from gloria_ops.learnable import FIXED, Learnable
from gloria_ops.precision import no_autocast, score_dtype
from gloria_ops.score import LocalScore
from gloria_ops.tokens import Ragged

name = "reference"
caution = None
differentiable = True
attended_of_any_length = True
keeps_best = False


def describe() -> str:
    """Return a line for the doctor."""
    return "eager PyTorch, every score, dtype and device; unfused"


def unavailable() -> None:
    """Return None: the reference runs everywhere."""


def unsupported(score: LocalScore, dtype: torch.dtype, device: torch.device, learnable: Learnable = FIXED) -> None:
    """Return None: it lacks nothing."""


def forward(
    attended: Ragged,
    attending: Ragged,
    score: LocalScore,
    search_words: int = 0,
    learnable: Learnable = FIXED,
    best: Tensor | None = None,
) -> Tensor:
    """Return scores (N, T), computed in their own dtype; `search_words` has no effect."""
    dtype = score_dtype(attended.rows.dtype)
    with no_autocast(attended.rows.device):
        return reference.scores(attended.to(dtype), attending.to(dtype), score, learnable)


def backward(
    grad_scores: Tensor,
    attended: Ragged,
    attending: Ragged,
    score: LocalScore,
    learnable: Learnable = FIXED,
    best: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Return the gradients of both sides' rows and of what is learnable, by autograd."""
    with torch.enable_grad():
        attended, attending = (
            side._replace(rows=side.rows.detach().requires_grad_()) for side in (attended, attending)
        )
        learnable = Learnable(*(None if each is None else each.detach().requires_grad_() for each in learnable))
        scores = forward(attended, attending, score, learnable=learnable)
    return torch.autograd.grad(scores, (attended.rows, attending.rows, *learnable.given), grad_scores)
