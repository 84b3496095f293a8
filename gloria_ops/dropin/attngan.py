"""The DAMSM losses of AttnGAN and ControlGAN (code/miscc/losses.py of taoxugit/AttnGAN), fused.

    from miscc.losses import words_loss, sent_loss, cosine_similarity  # before
    from gloria_ops.dropin.attngan import words_loss, sent_loss, cosine_similarity  # after

    from GlobalAttention import func_attention  # before; in ControlGAN from attention
    from gloria_ops.dropin.attngan import func_attention  # after

Same names, argument order, layouts and return values. What differs: cfg.TRAIN.SMOOTH.GAMMA1, 2 and 3 are keywords,
whose defaults are those of the published configurations (code/cfg/DAMSM); losses are float32 (float64 for float64)
whatever the dtype of the features, the attention maps are made when looked at, and a batch of one works.

ControlGAN's words_loss, sent_loss and func_attention are the same, but for a mask that torch no longer takes. Its
word_level_correlation scores matched pairs only, without gradients: nothing there to fuse, keep it.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gloria_ops.dropin.gloria import attention_fn
from gloria_ops.dropin.shared import AttentionMaps, channels_last, cosine_similarity, plain_lengths
from gloria_ops.functional import check_vectors, cosines, local_scores
from gloria_ops.score import LocalScore
from gloria_ops.tokens import Lengths

__all__ = ["cosine_similarity", "func_attention", "sent_loss", "words_loss"]

DAMSM = LocalScore.damsm()
ClassIds = np.ndarray | Tensor | Sequence[int]


def words_loss(
    img_features: Tensor,
    words_emb: Tensor,
    labels: Tensor | None,
    cap_lens: Lengths,
    class_ids: ClassIds | None,
    batch_size: int,
    *,
    gamma1: float = DAMSM.attention_scale,
    gamma2: float = DAMSM.word_scale,
    gamma3: float = DAMSM.logit_scale,
) -> tuple[Tensor | None, Tensor | None, Sequence[Tensor]]:
    """Contrastive loss over the local scores of B images and their B texts.

    Args:
        img_features: (B, D, h, w), floating.
        words_emb: (B, D, L), same dtype. Text i is words_emb[i, :, : cap_lens[i]].
        labels: (B,) int64, the text of each image and the image of each text: arange(B). None: no losses.
        cap_lens: B integers, 1 to L.
        class_ids: (B,), or None. Others of the class of item i are no negatives of it.
        batch_size: B.
        gamma1: attention scale. Default 4.
        gamma2: word scale. Default 5.
        gamma3: scale of the scores in the loss. Default 10.

    Returns:
        (loss0, loss1, att_maps): image to text and text to image (means over the batch; None, and not computed, where
        labels is None), and a sequence of B attention maps (1, cap_lens[i], h, w), made when looked at.

    Raises:
        TypeError, ValueError: as `gloria_ops.local_contrastive_loss`, which calls the features regions and words;
            class_ids or a batch_size that do not fit.
    """
    _check_batch_size(batch_size, img_features)
    score = replace(DAMSM, attention_scale=gamma1, word_scale=gamma2, logit_scale=gamma3)
    words, lengths = channels_last(words_emb), plain_lengths(cap_lens)
    maps = AttentionMaps(img_features, words, lengths, score)
    if labels is None:
        return None, None, maps
    scores = local_scores(img_features, words, word_lengths=lengths, score=score)
    return *_losses(scores, labels, class_ids, gamma3), maps


def sent_loss(
    cnn_code: Tensor,
    rnn_code: Tensor,
    labels: Tensor | None,
    class_ids: ClassIds | None,
    batch_size: int,
    eps: float = 1e-8,
    *,
    gamma3: float = DAMSM.logit_scale,
) -> tuple[Tensor | None, Tensor | None]:
    """InfoNCE over the cosines of whole images and texts.

    Args:
        cnn_code, rnn_code: (B, D), or (1, B, D), floating.
        labels, class_ids, batch_size, gamma3: as in `words_loss`.
        eps: smallest product of two norms that is divided by. Default 1e-8.

    Returns:
        (loss0, loss1): image to text, text to image, means over the batch; (None, None) where labels is None.

    Raises:
        TypeError, ValueError: codes that are not as above; class_ids or a batch_size that do not fit.
    """
    images, texts = (code.squeeze(0) if code.dim() == 3 else code for code in (cnn_code, rnn_code))
    _check_batch_size(batch_size, images)
    if labels is None:
        return None, None
    check_vectors(images, texts)
    return _losses(cosines(images, texts, eps), labels, class_ids, gamma3)


def func_attention(query: Tensor, context: Tensor, gamma1: float) -> tuple[Tensor, Tensor]:
    """`gloria_ops.dropin.gloria.attention_fn`, gamma1 being its temp1."""
    return attention_fn(query, context, gamma1)


def _losses(scores: Tensor, labels: Tensor, class_ids: ClassIds | None, gamma3: float) -> tuple[Tensor, Tensor]:
    logits = gamma3 * scores
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
