"""VSE++'s loss (model.py of fartashf/vsepp) over vectors of whole images and captions.

    # at the end of model.py
    from gloria_ops.dropin.vsepp import ContrastiveLoss, cosine_sim, order_sim

Same names, argument order, layouts and return values. What differs: order embeddings whose distance is 0 have
gradients, where there they are NaN. Over any other scores it is `gloria_ops.hinge_loss(scores, margin=0.2)`.
"""

import torch
from torch import Tensor, nn

from gloria_ops.dropin.shared import naming
from gloria_ops.functional import check_vectors
from gloria_ops.score_losses import hinge_loss


class ContrastiveLoss(nn.Module):
    """Hinge loss over the scores of every image with every caption.

    Args:
        margin: in units of the scores. Default 0; the training script passes 0.2.
        measure: "order" = `order_sim`; anything else = `cosine_sim`.
        max_violation: count the hardest negative of each item only, which makes it VSE++.
    """

    def __init__(self, margin: float = 0, measure: str | bool = False, max_violation: bool = False) -> None:
        super().__init__()
        self.margin = margin
        self.sim = order_sim if measure == "order" else cosine_sim
        self.max_violation = max_violation

    def forward(self, im: Tensor, s: Tensor) -> Tensor:
        """A scalar, the sum over the batch, from vectors of images and captions, (N, D) each."""
        return hinge_loss(self.sim(im, s), margin=self.margin, max_violation=self.max_violation)


@naming(image_vectors="im", text_vectors="s")
def cosine_sim(im: Tensor, s: Tensor) -> Tensor:
    """(N_v, N_t) dot products of images (N_v, D) and captions (N_t, D): cosines where the vectors have length 1."""
    check_vectors(im, s)
    return im @ s.T


@naming(image_vectors="im", text_vectors="s")
def order_sim(im: Tensor, s: Tensor) -> Tensor:
    """(N_v, N_t): minus the length of max(0, s - im), of images (N_v, D) and captions (N_t, D)."""
    check_vectors(im, s)
    return -torch.linalg.vector_norm((s - im[:, None]).clamp(min=0), dim=2)
