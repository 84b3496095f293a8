"""What the replaced projects have in common: names, temperatures, attention maps, layouts, lengths, a cosine."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from gloria_ops.functional import attention_maps, check_square
from gloria_ops.reference import EPS
from gloria_ops.score import SCALES, LocalScore, checked_scale
from gloria_ops.tokens import Lengths, check_layout

Temperature = float | Tensor

# The arguments of `gloria_ops.dropin.maxsim` in what replaces ColBERT's scores, for `naming`.
COLBERT = {
    "text": "queries_embeddings",
    "image": "documents_embeddings",
    "images": "documents_embeddings",
    "text_mask": "queries_mask",
    "image_mask": "documents_mask",
    "images_mask": "documents_mask",
}


@contextmanager
def naming(**theirs: str) -> Iterator[None]:
    """Let errors within name arguments as the caller knows them: what replaces each of our names. Also a decorator."""
    try:
        yield
    except (TypeError, ValueError) as error:
        ours = rf"(?<!')\b({'|'.join(theirs)})\b"  # what is quoted is a value, or a keyword that was given
        error.args = (re.sub(ours, lambda found: theirs[found[0]], str(error)),)
        raise


def scale(name: str, temperature: Temperature, infinite: bool = False) -> float:
    """A temperature as a number for `LocalScore`; for 0, which that does not take, its least scale.

    Then scores are those of 0 to the last bit, and a gradient that should be 0 is some 1e-38 times another.

    Raises:
        TypeError, ValueError: a temperature below 0, without a value, or infinite where that is not allowed.
    """
    if isinstance(temperature, Tensor):
        temperature = float(_scalar(name, temperature).detach())
    return checked_scale(name, SCALES[0] if temperature == 0 else temperature, infinite=infinite)


def learned(temp1: Temperature, temp2: Temperature) -> dict[str, Any]:
    """Those of the two that need a gradient, as `gloria_ops.local_scores` takes them."""
    named = {"attention_scale": temp1, "word_scale": temp2}
    return {name: each for name, each in named.items() if isinstance(each, Tensor) and each.requires_grad}


def scaled(scores: Tensor, name: str, temperature: Temperature) -> Tensor:
    """Scores (B, B) times a temperature, which may be learned."""
    check_square(scores)
    if isinstance(temperature, Tensor):
        return _scalar(name, temperature).to(scores.dtype) * scores
    return scale(name, temperature) * scores


def matched_maps(regions: Tensor, words: Tensor, lengths: Lengths, score: LocalScore) -> list[Tensor]:
    """Attention of text i over image i: B tensors (1, lengths[i], h, w), float32 (float64 for float64).

    Args:
        regions: (B, D, h, w).
        words: (B, L, D).
        lengths: B integers, 1 to L.
        score: whose attention.
    """
    return [each[None] for each in attention_maps(regions, words, word_lengths=lengths, score=score)]


def channels_last(img_features: Tensor, words_emb: Tensor) -> Tensor:
    """Words (B, D, L), as GLoRIA and AttnGAN keep them, as (B, L, D); both layouts are checked."""
    check_layout("img_features", img_features, "(B, D, h, w)")
    check_layout("words_emb", words_emb, "(B, D, L)")
    return words_emb.transpose(1, 2)


def plain_lengths(cap_lens: Lengths) -> Lengths:
    """Lengths as `gloria_ops.local_scores` takes them, from a list that may hold tensors of one element, too.

    The tensors are not read on the host, where each would wait for its device.
    """
    lengths: Sequence[Any] = cap_lens if isinstance(cap_lens, Sequence) else ()
    devices = [length.device for length in lengths if isinstance(length, Tensor)]
    if not devices:
        return cap_lens
    return torch.stack([torch.as_tensor(length, device=devices[0]).reshape(()) for length in lengths])


def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = EPS) -> Tensor:
    """Cosine of x1 and x2 along `dim`, without the sizes of 1, as GLoRIA, AttnGAN and SCAN each have it (not fused).

    Args:
        x1, x2: floating, of shapes that broadcast.
        dim: the dimension that is summed over.
        eps: smallest product of two norms that is divided by.
    """
    norms = torch.linalg.vector_norm(x1, dim=dim) * torch.linalg.vector_norm(x2, dim=dim)
    return ((x1 * x2).sum(dim) / norms.clamp(min=eps)).squeeze()


def _scalar(name: str, temperature: Tensor) -> Tensor:
    if temperature.numel() != 1:
        raise ValueError(f"{name} has the shape {tuple(temperature.shape)}; expected a number, or one element")
    return temperature.reshape(())
