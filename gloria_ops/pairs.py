"""The one way to a backend: a score gives images and texts their roles, and scores come back images by texts."""

from typing import TypeVar

import torch
from torch import Tensor

from gloria_ops import chosen, ops
from gloria_ops.backends import BACKENDS
from gloria_ops.learnable import FIXED, Learnable
from gloria_ops.score import LocalScore
from gloria_ops.tokens import Ragged

Side = TypeVar("Side")


def in_roles(images: Side, texts: Side, score: LocalScore) -> tuple[Side, Side]:
    """Return (attended, attending) for (images, texts). The exchange is its own inverse."""
    return (texts, images) if score.direction == "i2t" else (images, texts)


def turned(matrix: Tensor, score: LocalScore) -> Tensor:
    """Return a matrix of attended by attending as one of images by texts, or the reverse."""
    return matrix.T if score.direction == "i2t" else matrix


def pair_scores(images: Ragged, texts: Ragged, score: LocalScore, backend: str, learnable: Learnable = FIXED) -> Tensor:
    """Return the scores (N_v, N_t) of every image with every text, differentiable in all tensors."""
    return turned(ops.differentiable_scores(*in_roles(images, texts, score), score, backend, learnable), score)


def chosen_scores(
    images: Ragged, texts: Ragged, pairs: Tensor, score: LocalScore, backend: str, learnable: Learnable = FIXED
) -> Tensor:
    """Return the scores (P,) of pairs (P, 2) int64 of (image, text), differentiable in all tensors."""
    sides = in_roles(images, texts, score)
    return ops.differentiable_scores(*sides, score, backend, learnable, _roles_of(pairs, score))


@torch.no_grad()
def search_scores(
    images: Ragged, texts: Ragged, score: LocalScore, backend: str, search_words: int, pairs: Tensor | None = None
) -> Tensor:
    """Return scores (N_v, N_t), or those of pairs (P,), without gradients.

    Args:
        search_words: as the backend's `forward` takes it.
        pairs: as in `chosen_scores`; None = every image with every text.
    """
    sides = in_roles(images, texts, score)
    if pairs is not None:
        return chosen.forward(BACKENDS[backend], *sides, _roles_of(pairs, score), score, search_words=search_words)
    return turned(BACKENDS[backend].forward(*sides, score, search_words), score)


def pair_gradients(
    grad_scores: Tensor, images: Ragged, texts: Ragged, score: LocalScore, backend: str, learnable: Learnable = FIXED
) -> tuple[Tensor, ...]:
    """Return the gradients of the images' and the texts' rows, then of `learnable.given`, from that of (N_v, N_t)."""
    sides = in_roles(images, texts, score)
    attended, attending, *rest = BACKENDS[backend].backward(turned(grad_scores, score), *sides, score, learnable)
    return *in_roles(attended, attending, score), *rest


def _roles_of(pairs: Tensor, score: LocalScore) -> Tensor:
    """Pairs of (image, text) as ones of (attended, attending)."""
    return pairs.flip(1) if score.direction == "i2t" else pairs
