"""The DAMSM losses of AttnGAN, ControlGAN, DM-GAN and MirrorGAN (code/miscc/losses.py of taoxugit/AttnGAN), fused.

    # at the end of code/miscc/losses.py; in MirrorGAN miscc/losses.py
    from gloria_ops.dropin.attngan import words_loss, sent_loss, cosine_similarity, func_attention

Same names, argument order, layouts and return values. What differs: losses are float32 (float64 for float64) whatever
the dtype of the features, a batch of one works, and so do the masks of equal classes with today's torch.

The gammas are those of `cfg.TRAIN.SMOOTH`, which stands in the module miscc.config of these repositories, in
MirrorGAN's in cfg.config, as there: they are read in each call. Without such a module, or by keyword, they are the ones
of the published configurations (code/cfg/DAMSM).

ControlGAN's word_level_correlation scores matched pairs only, without gradients: nothing there to fuse, keep it.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gloria_ops.dropin.gloria import attention_fn
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
from gloria_ops.functional import check_vectors, cosines, local_scores
from gloria_ops.score import LocalScore
from gloria_ops.tokens import Lengths, check_floating

__all__ = ["cosine_similarity", "func_attention", "sent_loss", "words_loss"]

DAMSM = LocalScore.damsm()
ClassIds = np.ndarray | Tensor | Sequence[int]


@naming(
    regions="img_features", words="words_emb", word_lengths="cap_lens", attention_scale="gamma1", word_scale="gamma2"
)
def words_loss(
    img_features: Tensor,
    words_emb: Tensor,
    labels: Tensor | None,
    cap_lens: Lengths,
    class_ids: ClassIds | None,
    batch_size: int,
    *,
    gamma1: Temperature | None = None,
    gamma2: Temperature | None = None,
    gamma3: Temperature | None = None,
) -> tuple[Tensor | None, Tensor | None, list[Tensor]]:
    """Contrastive loss over the local scores of B images and their B texts.

    Args:
        img_features: (B, D, h, w), floating.
        words_emb: (B, D, L), same dtype. Text i is words_emb[i, :, : cap_lens[i]].
        labels: (B,) int64, the text of each image and the image of each text: arange(B). None: no losses.
        cap_lens: B integers, 1 to L.
        class_ids: (B,), or None. Others of the class of item i are no negatives of it.
        batch_size: B.
        gamma1: attention scale, a number of at least 0, or a tensor of one element, which may be learned; then above 0.
            Default: that of the configuration, else 4.
        gamma2: word scale, likewise, else 5.
        gamma3: scale of the scores in the loss, likewise, else 10.

    Returns:
        (loss0, loss1, att_maps): image to text and text to image (means over the batch; None, and not computed, where
        labels is None), and a list of B attention maps (1, cap_lens[i], h, w), without a gradient of gamma1.

    Raises:
        TypeError, ValueError: an argument that does not fit, named with its value and the fix.
    """
    words, lengths = channels_last(img_features, words_emb), plain_lengths(cap_lens)
    _check_batch_size(batch_size, img_features)
    gamma1 = _configured("GAMMA1", DAMSM.attention_scale) if gamma1 is None else gamma1
    gamma2 = _configured("GAMMA2", DAMSM.word_scale) if gamma2 is None else gamma2
    score = replace(DAMSM, attention_scale=scale("gamma1", gamma1, infinite=True), word_scale=scale("gamma2", gamma2))
    maps = matched_maps(img_features, words, lengths, score)
    if labels is None:
        return None, None, maps
    scores = local_scores(img_features, words, word_lengths=lengths, score=score, **learned(gamma1, gamma2))
    return *_losses(scores, labels, class_ids, gamma3), maps


@naming(image_vectors="cnn_code", text_vectors="rnn_code")
def sent_loss(
    cnn_code: Tensor,
    rnn_code: Tensor,
    labels: Tensor | None,
    class_ids: ClassIds | None,
    batch_size: int,
    eps: float = 1e-8,
    *,
    gamma3: Temperature | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """InfoNCE over the cosines of whole images and texts.

    Args:
        cnn_code, rnn_code: (B, D), or (1, B, D), floating.
        labels, class_ids, batch_size, gamma3: as in `words_loss`.
        eps: smallest product of two norms that is divided by. Default 1e-8.

    Returns:
        (loss0, loss1): image to text, text to image, means over the batch; (None, None) where labels is None.

    Raises:
        TypeError, ValueError: an argument that does not fit, named with its value and the fix.
    """
    for name, code in (("cnn_code", cnn_code), ("rnn_code", rnn_code)):
        check_floating(name, code)
    images, texts = (code.squeeze(0) if code.dim() == 3 else code for code in (cnn_code, rnn_code))
    check_vectors(images, texts)
    _check_batch_size(batch_size, images)
    if labels is None:
        return None, None
    return _losses(cosines(images, texts, eps), labels, class_ids, gamma3)


def func_attention(query: Tensor, context: Tensor, gamma1: Temperature) -> tuple[Tensor, Tensor]:
    """`gloria_ops.dropin.gloria.attention_fn`, gamma1 being its temp1."""
    return attention_fn(query, context, gamma1)


def _configured(name: str, default: float) -> Temperature:
    """What the configuration of a repository that is running says."""
    for module in ("miscc.config", "cfg.config"):
        smooth = getattr(getattr(getattr(sys.modules.get(module), "cfg", None), "TRAIN", None), "SMOOTH", None)
        if smooth is not None:
            return getattr(smooth, name)
    return default


def _losses(
    scores: Tensor, labels: Tensor, class_ids: ClassIds | None, gamma3: Temperature | None
) -> tuple[Tensor, Tensor]:
    logits = scaled(scores, "gamma3", _configured("GAMMA3", DAMSM.logit_scale) if gamma3 is None else gamma3)
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.shape != (len(scores),):
        raise TypeError(f"labels is {labels}; expected {len(scores)} integers in a tensor: torch.arange({len(scores)})")
    if class_ids is not None:
        logits = logits.masked_fill(~_other_classes(class_ids, scores), -torch.inf)
    return F.cross_entropy(logits, labels), F.cross_entropy(logits.T, labels)


def _other_classes(class_ids: ClassIds, scores: Tensor) -> Tensor:
    """(B, B) bool: False = an other item of the same class."""
    ids = class_ids if isinstance(class_ids, Tensor) else np.asarray(class_ids)
    if tuple(ids.shape) != (len(scores),):
        raise ValueError(
            f"class_ids has the shape {tuple(ids.shape)}; expected ({len(scores)},), the class of each item"
        )
    other = torch.as_tensor(ids[:, None] != ids[None, :])
    return other.fill_diagonal_(True).to(scores.device)


def _check_batch_size(batch_size: int, images: Tensor) -> None:
    if batch_size != len(images):
        raise ValueError(f"batch_size is {batch_size}; expected {len(images)}, the images given: pass len(images)")
