"""The functions of the released GLoRIA code (gloria/loss/gloria_loss.py of marshuang80/gloria), fused.

    from gloria.loss.gloria_loss import local_loss, global_loss, attention_fn, cosine_similarity  # before
    from gloria_ops.dropin.gloria import local_loss, global_loss, attention_fn, cosine_similarity  # after

Same names, argument order, layouts and return values. What differs: losses are float32 (float64 for float64) whatever
the dtype of the features, the attention maps are made when looked at, and a batch of one works.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from gloria_ops import reference
from gloria_ops.dropin.shared import AttentionMaps, channels_last, cosine_similarity, plain_lengths
from gloria_ops.functional import global_contrastive_loss, local_contrastive_loss
from gloria_ops.score import LocalScore
from gloria_ops.tokens import Lengths

__all__ = ["attention_fn", "cosine_similarity", "global_loss", "local_loss"]


def local_loss(
    img_features: Tensor,
    words_emb: Tensor,
    cap_lens: Lengths,
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
    words, lengths = channels_last(words_emb), plain_lengths(cap_lens)
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
    attention = reference.attention(query.transpose(1, 2) @ regions, score)
    return torch.bmm(regions, attention.transpose(1, 2)), attention.unflatten(2, context.shape[2:])
