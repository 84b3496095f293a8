"""The functions of the released GLoRIA code (gloria/loss/gloria_loss.py of marshuang80/gloria), fused.

    # at the end of gloria/loss/gloria_loss.py
    from gloria_ops.dropin.gloria import local_loss, global_loss, attention_fn, cosine_similarity

    # at the end of gloria/models/gloria_model.py
    from gloria_ops.dropin.gloria import get_local_similarities
    GLoRIA.get_local_similarities = staticmethod(get_local_similarities)

    # at the end of gloria/models/retrival_model.py
    from gloria_ops.dropin.gloria import compute_local_similarity
    Retriver._compute_local_similarity = staticmethod(compute_local_similarity)

Same names, argument order, layouts and return values. What differs: losses are float32 (float64 for float64) whatever
the dtype of the features, and a batch of one works.
"""

from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from gloria_ops import reference
from gloria_ops.dropin.shared import (
    Temperature,
    channels_last,
    cosine_similarity,
    learned,
    matched_maps,
    naming,
    plain_lengths,
    scale,
    scaled,
)
from gloria_ops.functional import check_vectors, contrastive_losses, cosines, local_scores
from gloria_ops.score import LocalScore
from gloria_ops.tokens import Lengths, check_layout

__all__ = [
    "attention_fn",
    "compute_local_similarity",
    "cosine_similarity",
    "get_local_similarities",
    "global_loss",
    "local_loss",
]

RELEASED = LocalScore.released()
Aggregation = Literal["sum", "mean"]


@naming(regions="img_features", words="words_emb", word_lengths="cap_lens", attention_scale="temp1", word_scale="temp2")
def local_loss(
    img_features: Tensor,
    words_emb: Tensor,
    cap_lens: Lengths,
    temp1: Temperature = 4.0,
    temp2: Temperature = 5.0,
    temp3: Temperature = 10.0,
    agg: Aggregation = "sum",
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Contrastive loss over the local scores of B images and their B texts, as released.

    Args:
        img_features: (B, D, h, w), floating.
        words_emb: (B, D, L), same dtype. Text i is words_emb[i, :, : cap_lens[i]], [CLS] first, as released.
        cap_lens: B integers, 1 to L.
        temp1: attention scale, a number of at least 0, or a tensor of one element, which may be learned; then above 0.
            Default 4, released.
        temp2: word scale, likewise. Default 5, released.
        temp3: scale of the scores in the loss, likewise. Default 10, released.
        agg: over the words, inside the logarithm: "sum" (released) or "mean".

    Returns:
        (loss0, loss1, att_maps): image to text and text to image (means over the batch), and a list of B attention maps
        (1, cap_lens[i], h, w), without a gradient of temp1.

    Raises:
        TypeError, ValueError: an argument that does not fit, named with its value and the fix.
    """
    score = _score(temp1, temp2, agg)
    words, lengths = channels_last(img_features, words_emb), plain_lengths(cap_lens)
    scores = local_scores(img_features, words, word_lengths=lengths, score=score, **learned(temp1, temp2))
    losses = contrastive_losses(scaled(scores, "temp3", temp3), logit_scale=1.0)
    return *losses, matched_maps(img_features, words, lengths, score)


@naming(image_vectors="cnn_code", text_vectors="rnn_code")
def global_loss(
    cnn_code: Tensor, rnn_code: Tensor, eps: float = 1e-8, temp3: Temperature = 10.0
) -> tuple[Tensor, Tensor]:
    """InfoNCE over the cosines of whole images and texts, as released.

    Args:
        cnn_code, rnn_code: (B, D), floating.
        eps: smallest product of two norms that is divided by. Default 1e-8, released.
        temp3: scale of the cosines, as in `local_loss`. Default 10, released.

    Returns:
        (loss0, loss1): image to text, text to image, means over the batch.

    Raises:
        TypeError, ValueError: an argument that does not fit, named with its value and the fix.
    """
    check_vectors(cnn_code, rnn_code)
    return contrastive_losses(scaled(cosines(cnn_code, rnn_code, eps), "temp3", temp3), logit_scale=1.0)


def attention_fn(query: Tensor, context: Tensor, temp1: Temperature) -> tuple[Tensor, Tensor]:
    """Attention of the words of text b over image b, and their contexts, as released (not fused).

    Args:
        query: (B, D, L) words, all of them real.
        context: (B, D, h, w) regions, same dtype.
        temp1: attention scale, any number or a tensor of one element.

    Returns:
        (weightedContext (B, D, L), attn (B, L, h, w)), in the dtype of the inputs.
    """
    regions = context.flatten(2)
    attention = torch.softmax(temp1 * reference.word_norm(query.transpose(1, 2) @ regions, RELEASED), dim=2)
    return torch.bmm(regions, attention.transpose(1, 2)), attention.unflatten(2, context.shape[2:])


@naming(img_features="img_emb_l", words_emb="text_emb_l")
def get_local_similarities(img_emb_l: Tensor, text_emb_l: Tensor, cap_lens: Lengths) -> Tensor:
    """Local similarities of zero-shot classification, as released: 5 times the cosine of the best word.

    Args:
        img_emb_l: (N_v, D, h, w), floating.
        text_emb_l: (N_t, D, L), same dtype. Text i is text_emb_l[i, :, 1 : 1 + cap_lens[i]], without [CLS].
        cap_lens: N_t integers, 1 to L - 1.

    Returns:
        (N_v, N_t), float32 (float64 for float64), on the CPU, without gradients.

    Raises:
        As `gloria_ops.local_scores`.
    """
    score = replace(RELEASED, pool="max")
    return 5.0 * _without_cls(img_emb_l, text_emb_l, cap_lens, score)


def compute_local_similarity(
    img_features: Tensor,
    words_emb: Tensor,
    cap_lens: Lengths,
    temp1: Temperature = 4.0,
    temp2: Temperature = 5.0,
    temp3: Temperature = 10.0,
    agg: Aggregation = "sum",
) -> np.ndarray:
    """Local similarities of retrieval, of one image with every text, as released.

    Args:
        img_features: (1, D, h, w), floating.
        words_emb: (N_t, D, L), same dtype. Text i is words_emb[i, :, 1 : 1 + cap_lens[i]], as there.
        cap_lens: N_t integers, 1 to L - 1.
        temp1, temp2, temp3, agg: as in `local_loss`, without gradients.

    Returns:
        (N_t,), float64, temp3 times the scores.

    Raises:
        As `gloria_ops.local_scores`; ValueError where there are several images.
    """
    check_layout("img_features", img_features, "(1, D, h, w)")
    if len(img_features) != 1:
        raise ValueError(f"img_features has the shape {tuple(img_features.shape)}; expected one image, (1, D, h, w)")
    score, temp3 = _score(temp1, temp2, agg), scale("temp3", temp3)
    return temp3 * _without_cls(img_features, words_emb, cap_lens, score)[0].double().numpy()


def _score(temp1: Temperature, temp2: Temperature, agg: Aggregation) -> LocalScore:
    if agg not in ("sum", "mean"):
        raise ValueError(f"agg is {agg!r}; expected 'sum' (released) or 'mean'")
    attention_scale, word_scale = scale("temp1", temp1, infinite=True), scale("temp2", temp2)
    return replace(RELEASED, attention_scale=attention_scale, word_scale=word_scale, pool_mean=agg == "mean")


@torch.no_grad()
@naming(regions="img_features", words="words_emb", word_lengths="cap_lens")
def _without_cls(img_features: Tensor, words_emb: Tensor, cap_lens: Lengths, score: LocalScore) -> Tensor:
    words = channels_last(img_features, words_emb)[:, 1:]
    return local_scores(img_features, words, word_lengths=plain_lengths(cap_lens), score=score).cpu()
