"""The one way to a backend: a score gives images and texts their roles, and scores come back images by texts."""

from typing import TypeVar

import torch
from torch import Tensor

from gloria_ops import ops
from gloria_ops.backends import BACKENDS
from gloria_ops.score import LocalScore
from gloria_ops.tokens import Ragged

Side = TypeVar("Side")


def in_roles(images: Side, texts: Side, score: LocalScore) -> tuple[Side, Side]:
    """Return (attended, attending) for (images, texts). The exchange is its own inverse."""
    return (texts, images) if score.direction == "i2t" else (images, texts)


def turned(matrix: Tensor, score: LocalScore) -> Tensor:
    """Return a matrix of attended by attending as one of images by texts, or the reverse."""
    return matrix.T if score.direction == "i2t" else matrix


def pair_scores(images: Ragged, texts: Ragged, score: LocalScore, backend: str) -> Tensor:
    """Return the scores (N_v, N_t) of every image with every text, differentiable in the rows of both."""
    return turned(ops.differentiable_scores(*in_roles(images, texts, score), score, backend), score)


@torch.no_grad()
def search_scores(images: Ragged, texts: Ragged, score: LocalScore, backend: str, search_words: int) -> Tensor:
    """Return the scores (N_v, N_t) without gradients; `search_words` as the backend's `forward` takes it."""
    return turned(BACKENDS[backend].forward(*in_roles(images, texts, score), score, search_words), score)


def pair_gradients(
    grad_scores: Tensor, images: Ragged, texts: Ragged, score: LocalScore, backend: str
) -> tuple[Tensor, Tensor]:
    """Return the gradients of the images' and the texts' rows from that of the scores (N_v, N_t)."""
    sides = in_roles(images, texts, score)
    return in_roles(*BACKENDS[backend].backward(turned(grad_scores, score), *sides, score), score)
