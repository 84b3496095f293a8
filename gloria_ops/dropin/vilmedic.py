"""The GLoRIA and ConVIRT losses of vilmedic (vilmedic/blocks/losses of jbdel/vilmedic), fused.

    # at the end of vilmedic/blocks/losses/__init__.py
    from gloria_ops.dropin.vilmedic import GLoRIALoss, ConVIRTLoss, gloria_attention_fn, cosine_similarity

Same names, argument order, layouts and return values. What differs: they run on any device (there the labels are always
on a GPU), and losses are float32 (float64 for float64) whatever the dtype of the features.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from gloria_ops.dropin.gloria import attention_fn as gloria_attention_fn
from gloria_ops.dropin.gloria import global_loss, local_loss
from gloria_ops.dropin.shared import Temperature, cosine_similarity, naming
from gloria_ops.functional import check_square, check_vectors, contrastive_losses, cosines
from gloria_ops.score import TEMPERATURES, checked_scale
from gloria_ops.score_losses import check_weight

__all__ = ["ConVIRTLoss", "GLoRIALoss", "cosine_similarity", "gloria_attention_fn"]


class GLoRIALoss(nn.Module):
    """GLoRIA's two losses, local and global, each as the sum of both directions.

    Args:
        local_loss_weight, global_loss_weight: factors of the two. Default 1.
        temp1, temp2, temp3: as in `gloria_ops.dropin.gloria.local_loss`. Default 4, 5, 10, released.
    """

    def __init__(
        self,
        local_loss_weight: float = 1.0,
        global_loss_weight: float = 1.0,
        temp1: Temperature = 4.0,
        temp2: Temperature = 5.0,
        temp3: Temperature = 10.0,
    ) -> None:
        super().__init__()
        self.local_loss_weight = local_loss_weight
        self.global_loss_weight = global_loss_weight
        self.temp1 = temp1
        self.temp2 = temp2
        self.temp3 = temp3

    @naming(
        img_features="local_features",
        words_emb="word_embeddings",
        cap_lens="the length of sents",
        cnn_code="global_features",
        rnn_code="sent_embeddings",
    )
    def forward(
        self,
        global_features: Tensor,
        local_features: Tensor,
        word_embeddings: Tensor,
        sent_embeddings: Tensor,
        sents: Sequence[Sequence[str]],
    ) -> tuple[Tensor, list[Tensor]]:
        """The weighted loss, and the attention of text i over image i.

        Args:
            global_features: (B, D), images.
            local_features: (B, D, h, w), their regions.
            word_embeddings: (B, D, L), words.
            sent_embeddings: (B, D), texts.
            sents: the words of each text. Its first n + 1 embeddings count, n being its words that do not begin with
                "[": [CLS] and the words, without [SEP] and padding.

        Returns:
            (loss, attn_maps): a scalar, and a list of B maps (1, n_i + 1, h, w).
        """
        cap_lens = [1 + sum(not word.startswith("[") for word in sent) for sent in sents]
        loss0, loss1, attn_maps = local_loss(
            local_features, word_embeddings, cap_lens, self.temp1, self.temp2, self.temp3
        )
        whole0, whole1 = global_loss(global_features, sent_embeddings, temp3=self.temp3)
        loss = self.local_loss_weight * (loss0 + loss1) + self.global_loss_weight * (whole0 + whole1)
        return loss, attn_maps


class ConVIRTLoss(nn.Module):
    """Weighted InfoNCE over the cosines of whole texts and images.

    Over any other scores it is `gloria_ops.symmetric_loss(scores, logit_scale=1 / tau, image_weight=lambda_)`.

    Args:
        tau: temperature, 1.2e-38 to 8.3e37; ConVIRT: 0.1.
        lambda_: weight of image to text, 0 to 1, text to image having the rest; ConVIRT: 0.75.
        kwargs: not read, as there.

    Raises:
        TypeError, ValueError: a tau or lambda_ beyond these.
    """

    def __init__(self, tau: float, lambda_: float, **kwargs: Any) -> None:
        super().__init__()
        check_weight("lambda_", lambda_)
        self.tau = checked_scale("tau", tau, TEMPERATURES)
        self.lambda_ = lambda_

    @naming(image_vectors="visual", text_vectors="linguistic")
    def forward(self, linguistic: Tensor, visual: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The loss, and its two parts item by item.

        Args:
            linguistic, visual: (B, D), floating, not necessarily normalised.

        Returns:
            (loss, loss_l, loss_v): a scalar, text to image (B,), image to text (B,).
        """
        check_vectors(visual, linguistic)
        scores = cosines(visual, linguistic)
        check_square(scores)
        loss_v, loss_l = contrastive_losses(scores, logit_scale=1 / self.tau, reduction="none")
        loss = (self.lambda_ * loss_v + (1 - self.lambda_) * loss_l).mean()
        return loss, loss_l, loss_v

    def extra_repr(self) -> str:
        """The temperature and the weight, for the printed module."""
        return f"tau={self.tau}, lambda_={self.lambda_}"
