"""Late interaction (MaxSim) of every text with every image: x-clip's FILIP scores, ColBERT's and ColPali's.

    scores = torch.einsum("xtd,yid->xyti", text, image).amax(-1).mean(-1)  # before: FILIP, x-clip; ColBERT: sum(-1)
    scores = maxsim_scores(text, image)  # after; ColBERT, ColPali: maxsim_scores(queries, documents, reduction="sum")

What it replaces is a few lines inside x_clip.CLIP.forward, colbert_score and score_multi_vector; the layouts are
theirs, texts (queries) first. What differs: scores are float32 (float64 for float64), equal maxima share the gradient
as with `amax`, and an item without a real row is refused, where x-clip scores a text 0 and ColBERT a document -9999 a
token. ColBERT's and x-clip's vectors have length 1; here that is up to you.
"""

from dataclasses import replace
from typing import Literal, get_args

from torch import Tensor

from gloria_ops.functional import local_scores
from gloria_ops.score import Direction, LocalScore
from gloria_ops.tokens import real_rows_first

MaxsimDirection = Literal["text_to_image", "image_to_text"]
MaxsimReduction = Literal["mean", "sum"]


def maxsim_scores(
    text: Tensor,
    image: Tensor,
    text_mask: Tensor | None = None,
    image_mask: Tensor | None = None,
    *,
    direction: MaxsimDirection = "text_to_image",
    reduction: MaxsimReduction = "mean",
) -> Tensor:
    """Mean or sum of best dot products, of every text with every image, differentiable in both.

    Args:
        text: (X, T, D), floating: words, or the tokens of queries.
        image: (Y, I, D), same dtype: regions, patches, or the tokens of documents.
        text_mask: (X, T) bool or integers, True or 1 = real. What masked rows hold never matters. Default: all real.
        image_mask: (Y, I), the same; ColBERT's document mask.
        direction: "text_to_image" = of each word the best region, over the words; "image_to_text" = of each region the
            best word, over the regions.
        reduction: over the real words, or regions: "mean" (FILIP, x-clip) or "sum" (ColBERT, ColPali).

    Returns:
        (X, Y), float32 (float64 for float64). A temperature is yours to multiply.

    Raises:
        TypeError, ValueError: a mask, direction or reduction that does not fit; the rest as `gloria_ops.local_scores`,
            which calls the sides words and regions.
    """
    if direction not in get_args(MaxsimDirection):
        raise ValueError(f"direction is {direction!r}; expected 'text_to_image' or 'image_to_text'")
    if reduction not in get_args(MaxsimReduction):
        raise ValueError(f"reduction is {reduction!r}; expected 'mean' (FILIP) or 'sum' (ColBERT)")
    for name, rows, layout in (("text", text, "(X, T, D)"), ("image", image, "(Y, I, D)")):
        if rows.dim() != 3:
            raise ValueError(f"{name} has the shape {tuple(rows.shape)}; expected {layout}")
    words, word_lengths = (text, None) if text_mask is None else real_rows_first("text_mask", text, text_mask)
    regions, region_lengths = (image, None) if image_mask is None else real_rows_first("image_mask", image, image_mask)
    attention: Direction = "t2i" if direction == "text_to_image" else "i2t"
    score = replace(LocalScore.maxsim(), pool=reduction, direction=attention)
    return local_scores(regions, words, word_lengths=word_lengths, region_lengths=region_lengths, score=score).T
