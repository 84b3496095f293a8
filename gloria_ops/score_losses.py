"""Losses over any square matrix of scores: VSE++'s and SCAN's hinge, CLIP's and ConVIRT's weighted cross entropy."""

import torch
from torch import Tensor

from gloria_ops.functional import check_square, contrastive_losses
from gloria_ops.score import SCALES, checked_scale


def hinge_loss(scores: Tensor, *, margin: float = 0.2, max_violation: bool = False) -> Tensor:
    """Return the hinge loss: wrong texts and wrong images must score below the right one by the margin.

    With s_ii the scores of the matching pairs::

        sum_i sum_{j != i} max(0, margin + s_ij - s_ii)  +  sum_j sum_{i != j} max(0, margin + s_ij - s_jj)

    Args:
        scores: (N, N), rows images, columns texts, float32 or float64: those of `local_scores`, or any others.
        margin: margin in units of the scores. Default 0.2, as in VSE++ and SCAN.
        max_violation: take the largest term of each inner sum ("hardest negative", VSE++).

    Returns:
        A scalar of the dtype of the scores; 0 for a single pair.

    Raises:
        TypeError, ValueError: scores that are not (N, N), or a margin that is not a finite number.
    """
    check_square(scores)
    if not torch.compiler.is_compiling():  # a compiled float may be symbolic
        checked_scale("margin", margin, within=(-SCALES[1], SCALES[1]))
    right = scores.diagonal()
    pairs = torch.eye(scores.shape[0], dtype=torch.bool, device=scores.device)
    wrong_texts = (margin + scores - right[:, None]).clamp(min=0).masked_fill(pairs, 0)
    wrong_images = (margin + scores - right).clamp(min=0).masked_fill(pairs, 0)
    if max_violation:
        wrong_texts, wrong_images = wrong_texts.max(dim=1).values, wrong_images.max(dim=0).values
    return wrong_texts.sum() + wrong_images.sum()


def symmetric_loss(scores: Tensor, *, logit_scale: float | Tensor = 1.0, image_weight: float = 0.5) -> Tensor:
    """Return a weighted mean of the cross entropies of each image over the texts and of each text over the images.

    Args:
        scores: (N, N), rows images, columns texts, float32 or float64: those of `local_scores`, or any others.
        logit_scale: multiplies the scores; a float, or a tensor of one element, which may be learnable. Default 1, for
            scaled logits (CLIP); ConVIRT divides cosines by 0.1: 10.
        image_weight: weight of image to text, 0 to 1; text to image has the rest. Default 0.5, as in CLIP; ConVIRT's
            lambda is 0.75.

    Returns:
        A scalar of the dtype of the scores.

    Raises:
        TypeError, ValueError: scores that are not (N, N), or a weight outside 0 to 1.
        TypeError, ValueError: logit_scale, as in `local_contrastive_loss`.
    """
    check_square(scores)
    check_weight("image_weight", image_weight)
    image_to_text, text_to_image = contrastive_losses(scores, logit_scale=logit_scale)
    return image_weight * image_to_text + (1 - image_weight) * text_to_image


def check_weight(name: str, value: float) -> None:
    """Raise TypeError or ValueError if the weight of image to text is not a number from 0 to 1."""
    if not hasattr(value, "__float__"):
        raise TypeError(f"{name} is {value!r}; expected 0 to 1, the weight of image to text")
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {value!r}; expected 0 to 1, the weight of image to text")
