"""Late interaction (MaxSim) of every text with every image: x-clip's FILIP scores, ColBERT's and ColPali's.

    scores = torch.einsum("xtd,yid->xyti", text, image).amax(-1).mean(-1)  # before: FILIP, x-clip; ColBERT: sum(-1)
    scores = maxsim_scores(text, image)  # after; ColBERT, ColPali: maxsim_scores(queries, documents, reduction="sum")

What it replaces is a few lines inside x_clip.CLIP.forward, colbert_score and score_multi_vector; the layouts are
theirs, texts (queries) first. What differs: scores are float32 (float64 for float64), equal maxima share the gradient
as with `amax`, and an item without a real row is refused unless `empty` says its score: x-clip scores a text 0, and
ColBERT a document -9999 a token. ColBERT's and x-clip's vectors have length 1; here that is up to you.
"""

from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor

from gloria_ops.dropin.shared import naming
from gloria_ops.functional import local_pair_scores, local_scores
from gloria_ops.score import Direction, LocalScore
from gloria_ops.tokens import check_floating, check_layout, readable, real_rows_first

MaxsimDirection = Literal["text_to_image", "image_to_text"]
MaxsimReduction = Literal["mean", "sum"]


@naming(words="text", regions="image")
def maxsim_scores(
    text: Tensor,
    image: Tensor,
    text_mask: Tensor | None = None,
    image_mask: Tensor | None = None,
    *,
    direction: MaxsimDirection = "text_to_image",
    reduction: MaxsimReduction = "mean",
    empty: float | None = None,
) -> Tensor:
    """Mean or sum of best dot products, of every text with every image, differentiable in both.

    Args:
        text: (X, T, D), floating: words, or the tokens of queries.
        image: (Y, I, D), same dtype: regions, patches, or the tokens of documents.
        text_mask: (X, T) bool, integers or floats, True or 1 = real. What masked rows hold never matters. Default: all
            real.
        image_mask: (Y, I), the same; ColBERT's document mask.
        direction: "text_to_image" = of each word the best region, over the words; "image_to_text" = of each region the
            best word, over the regions.
        reduction: over the real words, or regions: "mean" (FILIP, x-clip) or "sum" (ColBERT, ColPali).
        empty: score of a text, or an image, without a real row. Default: that is an error.

    Returns:
        (X, Y), float32 (float64 for float64). A temperature is yours to multiply.

    Raises:
        TypeError, ValueError: an argument that does not fit, named with its value and the fix.
    """
    if direction not in get_args(MaxsimDirection):
        raise ValueError(f"direction is {direction!r}; expected 'text_to_image' or 'image_to_text'")
    if reduction not in get_args(MaxsimReduction):
        raise ValueError(f"reduction is {reduction!r}; expected 'mean' (FILIP) or 'sum' (ColBERT)")
    for name, rows, layout in (("text", text, "(X, T, D)"), ("image", image, "(Y, I, D)")):
        check_layout(name, rows, layout)
    words, word_lengths, no_word = _real_rows("text_mask", text, text_mask, empty)
    regions, region_lengths, no_region = _real_rows("image_mask", image, image_mask, empty)
    attention: Direction = "t2i" if direction == "text_to_image" else "i2t"
    score = replace(LocalScore.maxsim(), pool=reduction, direction=attention)
    scores = local_scores(regions, words, word_lengths=word_lengths, region_lengths=region_lengths, score=score).T
    scores = scores.contiguous()  # as what is replaced gives them, so that a view of them may follow
    return _with_empty(scores, no_word, no_region, empty)


@naming(words="text", regions="images")
def own_maxsim_scores(
    text: Tensor,
    images: Tensor,
    text_mask: Tensor | None = None,
    images_mask: Tensor | None = None,
    *,
    reduction: MaxsimReduction = "mean",
    empty: float | None = None,
) -> Tensor:
    """`maxsim_scores` of every text with images of its own alone: lists of candidates, hard negatives.

    Args:
        text, text_mask, reduction, empty: as there.
        images: (X, K, I, D), K images for each text.
        images_mask: (X, K, I), as image_mask.

    Returns:
        (X, K), as there.

    Raises:
        As `maxsim_scores`.
    """
    check_layout("text", text, "(X, T, D)")
    check_floating("images", images)
    if images.dim() != 4 or len(images) != len(text):
        raise ValueError(
            f"images has the shape {tuple(images.shape)}; expected (X, K, I, D) with X = {len(text)} texts"
        )
    words, word_lengths, no_word = _real_rows("text_mask", text, text_mask, empty)
    mask = images_mask.flatten(0, 1) if isinstance(images_mask, Tensor) and images_mask.dim() == 3 else images_mask
    regions, region_lengths, no_region = _real_rows("images_mask", images.flatten(0, 1), mask, empty)
    owners = torch.arange(len(text), device=text.device).repeat_interleave(images.shape[1])
    pairs = torch.stack([torch.arange(len(owners), device=text.device), owners], dim=1)
    score = replace(LocalScore.maxsim(), pool=reduction)
    scores = local_pair_scores(
        regions, words, pairs, word_lengths=word_lengths, region_lengths=region_lengths, score=score
    ).unflatten(0, images.shape[:2])
    return _with_empty(scores, no_word, None if no_region is None else no_region.unflatten(0, images.shape[:2]), empty)


def _with_empty(scores: Tensor, no_word: Tensor | None, no_region: Tensor | None, empty: float | None) -> Tensor:
    """Scores (X, ...) with `empty` for texts without a word (X,), and where `no_region`, which broadcasts to them."""
    for nothing in (None if no_word is None else no_word[:, None], no_region):
        if nothing is not None and empty is not None:
            scores = scores.masked_fill(nothing, empty)
    return scores


def _real_rows(
    name: str, rows: Tensor, mask: Tensor | None, empty: float | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Rows with the real ones first, how many they are, and where `empty` is given, which items (N,) have none."""
    if mask is None:
        return rows, None, None
    if isinstance(mask, Tensor) and mask.is_floating_point():
        mask = _real(name, mask)
    nothing = None
    if empty is not None and isinstance(mask, Tensor) and mask.shape == rows.shape[:2]:
        nothing = (mask == 0).all(1)
        if readable(nothing) and not nothing.any():
            return *real_rows_first(name, rows, mask), None
        # Zeros for its rows, whose scores are replaced: what they hold must not reach a gradient.
        rows = rows.masked_fill(nothing[:, None, None], 0)
        mask = (mask != 0) | nothing[:, None]
    return *real_rows_first(name, rows, mask, or_else=", or give their score, empty=0.0"), nothing


def _real(name: str, mask: Tensor) -> Tensor:
    """A mask of floats as one of bools; ValueError where it holds weights, as far as that needs no wait for a GPU."""
    if readable(mask):
        for place in ((mask != 0) & (mask != 1)).nonzero()[:1].tolist():
            raise ValueError(
                f"{name}{place} is {mask[tuple(place)].item():g}; expected 0 or 1, 1 = real: give a bool mask, such as "
                f"{name} > 0.5"
            )
    return mask != 0
