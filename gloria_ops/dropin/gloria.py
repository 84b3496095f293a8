"""The three functions of the released GLoRIA code (gloria/loss/gloria_loss.py of marshuang80/gloria), fused.

Same names, argument order, layouts and return values: change the import and nothing else. What differs: losses are
float32 (float64 for float64) whatever the dtype of the features, and the attention maps are made when looked at.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, overload

import torch
from torch import Tensor

from gloria_ops import reference
from gloria_ops.functional import attention_maps, global_contrastive_loss, local_contrastive_loss
from gloria_ops.score import LocalScore


class AttentionMaps(Sequence[Tensor]):
    """Attention of text i over image i, (1, cap_lens[i], h, w), computed each time item i is taken.

    Keeps the features of the batch alive for as long as it lives.
    """

    def __init__(self, regions: Tensor, words: Tensor, lengths: Sequence[int], score: LocalScore) -> None:
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
        words = self._words[item, : self._lengths[item]]
        (attended,) = attention_maps(self._regions[item, None], words[None], score=self._score)
        return attended[None]


def local_loss(
    img_features: Tensor,
    words_emb: Tensor,
    cap_lens: Sequence[int],
    temp1: float = 4.0,
    temp2: float = 5.0,
    temp3: float = 10.0,
    agg: Literal["sum", "mean"] = "sum",
) -> tuple[Tensor, Tensor, Sequence[Tensor]]:
    """Contrastive loss over the local scores of B images and their B texts, as released.

    Args:
        img_features: (B, D, h, w), floating.
        words_emb: (B, D, L), same dtype. Text i is words_emb[i, :, : cap_lens[i]], [CLS] first, as released.
        cap_lens: B integers, 1 to L.
        temp1: attention scale. Default 4, released.
        temp2: word scale. Default 5, released.
        temp3: scale of the scores in the loss. Default 10, released.
        agg: over the words, inside the logarithm: "sum" (released) or "mean".

    Returns:
        (loss0, loss1, att_maps): image to text and text to image (means over the batch), and a sequence of B attention
        maps (1, cap_lens[i], h, w), made when looked at.

    Raises:
        TypeError, ValueError: as `gloria_ops.local_contrastive_loss`, which calls the features regions and words.
    """
    if agg not in ("sum", "mean"):
        raise ValueError(f"agg is {agg!r}; expected 'sum' (released) or 'mean'")
    score = replace(
        LocalScore.released(),
        attention_scale=temp1,
        word_scale=temp2,
        logit_scale=temp3,
        pool_mean=agg == "mean",
    )
    if words_emb.dim() != 3:
        raise ValueError(f"words_emb has the shape {tuple(words_emb.shape)}; expected (B, D, L)")
    words = words_emb.transpose(1, 2)
    lengths = cap_lens.tolist() if isinstance(cap_lens, Tensor) else list(cap_lens)
    loss0, loss1 = local_contrastive_loss(img_features, words, word_lengths=lengths, score=score)
    return loss0, loss1, AttentionMaps(img_features, words, lengths, score)


def global_loss(cnn_code: Tensor, rnn_code: Tensor, eps: float = 1e-8, temp3: float = 10.0) -> tuple[Tensor, Tensor]:
    """InfoNCE over the cosines of whole images and texts, as released.

    Args:
        cnn_code, rnn_code: (B, D), floating.
        eps: smallest product of two norms that is divided by. Default 1e-8, released.
        temp3: scale of the cosines. Default 10, released.

    Returns:
        (loss0, loss1): image to text, text to image, means over the batch.
    """
    return global_contrastive_loss(cnn_code, rnn_code, logit_scale=temp3, eps=eps)


def attention_fn(query: Tensor, context: Tensor, temp1: float) -> tuple[Tensor, Tensor]:
    """Attention of the words of text b over image b, and their contexts, as released (not fused).

    Args:
        query: (B, D, L) words, all of them real.
        context: (B, D, h, w) regions, same dtype.
        temp1: attention scale.

    Returns:
        (weightedContext (B, D, L), attn (B, L, h, w)), in the dtype of the inputs.
    """
    score = replace(LocalScore.released(), attention_scale=temp1)
    regions = context.flatten(2)
    attended = reference.attention(query.transpose(1, 2) @ regions, score)
    return torch.bmm(regions, attended.transpose(1, 2)), attended.unflatten(2, context.shape[2:])
