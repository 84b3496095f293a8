"""Pooling: the similarities of the words of a text as its score with an image."""

# mypy: disable-error-code="no-untyped-def"
# Triton reads the annotations of kernels, and knows constexpr only.

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["first_image", "texts", "width", "longest_text"])
def pool_kernel(
    similarities,
    word_starts,
    word_lengths,
    scores,
    first_image,
    texts,
    width,
    longest_text,
    word_scale,
    POOL: tl.constexpr,
    POOL_MEAN: tl.constexpr,
    POOL_DIVIDE: tl.constexpr,
    C: tl.constexpr,
):
    """Scores (N_v, N_t) from similarities (images, width). One program: one text with one image."""
    text = tl.program_id(0)
    image = tl.program_id(1).to(tl.int64)
    start = tl.load(word_starts + text)
    length = tl.load(word_lengths + text).to(tl.int32)
    best = tl.full((C,), float("-inf"), tl.float32)
    total = tl.zeros((C,), tl.float32)
    for first in range(0, length, C):
        word = first + tl.arange(0, C)
        real = word < length
        u = tl.load(similarities + image * width + start + word, mask=real, other=float("-inf"))
        better = tl.maximum(best, u, propagate_nan=tl.PropagateNan.ALL)
        if POOL == "logsumexp":
            # A column that has seen no word keeps a maximum of -inf, and minus itself that is no number.
            total = tl.where(
                real, total * tl.exp(word_scale * (best - better)) + tl.exp(word_scale * (u - better)), total
            )
        else:
            total += tl.where(real, u, 0.0)
        best = better
    if POOL == "sum":
        score = tl.sum(total, 0)
    elif POOL == "mean":
        score = tl.sum(total, 0) / length
    else:
        seen = tl.arange(0, C) < length
        invalid = tl.sum(tl.where(seen & (best != best), 1, 0), 0) > 0
        score = tl.max(tl.where(seen, best, float("-inf")), 0)
        if POOL == "logsumexp":
            total = tl.sum(tl.where(seen, total * tl.exp(word_scale * (best - score)), 0.0), 0)
            if POOL_MEAN:
                total /= length
            score = word_scale * score + tl.log(total)
            if POOL_DIVIDE:
                score /= word_scale
        score = tl.where(invalid, float("nan"), score)
    # A text longer than the longest run of tiles was not computed to its end.
    score = tl.where(length > longest_text, float("nan"), score)
    tl.store(scores + (first_image + image) * texts + text, score)
