"""What the replaced projects have in common: attention maps made when looked at, layouts, lengths, a cosine."""

from collections.abc import Sequence
from typing import Any, overload

import torch
from torch import Tensor

from gloria_ops.functional import attention_maps
from gloria_ops.reference import EPS
from gloria_ops.score import LocalScore
from gloria_ops.tokens import Lengths


class AttentionMaps(Sequence[Tensor]):
    """Attention of text i over image i, (1, lengths[i], h, w), computed each time item i is taken.

    Keeps the features of the batch alive for as long as it lives; on a GPU it reads a length when it is looked at.

    Args:
        regions: (B, D, h, w).
        words: (B, L, D).
        lengths: B integers, 1 to L.
        score: whose attention.
    """

    def __init__(self, regions: Tensor, words: Tensor, lengths: Lengths, score: LocalScore) -> None:
        self._regions, self._words, self._lengths, self._score = regions, words, lengths, score

    def __len__(self) -> int:
        return len(self._lengths)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tensor]: ...
    def __getitem__(self, index: int | slice) -> Tensor | list[Tensor]:
        if isinstance(index, slice):
            return [self[item] for item in range(*index.indices(len(self)))]
        item = range(len(self))[index]
        words = self._words[item, : int(self._lengths[item])]
        (attention,) = attention_maps(self._regions[item, None], words[None], score=self._score)
        return attention[None]


def channels_last(words_emb: Tensor) -> Tensor:
    """Words (B, D, L), as GLoRIA and AttnGAN keep them, as (B, L, D)."""
    if words_emb.dim() != 3:
        raise ValueError(f"words_emb has the shape {tuple(words_emb.shape)}; expected (B, D, L)")
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
