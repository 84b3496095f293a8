"""The attention of a chunk, elementwise: one text with some regions of one image, whatever the text's length."""

# mypy: disable-error-code="no-untyped-def"
# Triton reads the annotations of kernels, and knows constexpr only.

import triton
import triton.language as tl
from torch import Tensor

from gloria_ops.backends.triton.device import (
    LOG2E,
    MIDDLE,
    affinity,
    clipped,
    kept,
    number,
    unnormalized,
    word_normed,
)
from gloria_ops.backends.triton.problem import Chunk, Problem


@triton.jit(do_not_specialize=["chunk", "first_image", "longest", "capacity", "plane", "texts_at_once"])
def attention_kernel(
    affinities,
    attended,
    word_norms,
    region_norms,
    levels,
    found,
    dense_starts,
    first_texts,
    region_lengths,
    chunk,
    first_image,
    longest,
    stride,
    side,
    capacity,
    plane,
    texts_at_once,
    scale,
    NORM: tl.constexpr,
    REFERENCE: tl.constexpr,
    STORE: tl.constexpr,
    KEEP: tl.constexpr,
    MEANS: tl.constexpr,
    NORMED: tl.constexpr,
    LOG2: tl.constexpr,
    PRECISION: tl.constexpr,
    W: tl.constexpr,
    R: tl.constexpr,
):
    """Statistics of the attention (see `device.statistics`), and with STORE the attention itself over the affinities.

    One program: R regions of one image, and every so-manieth text of the chunk. REFERENCE of the exponentials:
    "middle" = MIDDLE; "block" = the greatest of these regions, found here; "whole" = that of all blocks, found before.
    LOG2: d is kept, as s is taken, times log2(e). KEEP (for backward): levels (images, texts_at_once, side), one of
    each text at each region. MEANS (for the gradient of the scale): sums of attention times x.

    A program reads and writes its own words and regions of `affinities`, `attended` (which may be the same memory) and
    `levels` only, and its own block's planes of `found`. A barrier lies between the loop that reads the affinities for
    the level and the one that overwrites them; within the latter a block of words is loaded before it is stored.
    "whole" reads the references that the launch before wrote, and writes the other planes only.
    """
    scale = number(scale)
    image, block = tl.program_id(1), tl.program_id(2)
    planes = tl.num_programs(2)
    first, end = tl.load(first_texts + chunk), tl.load(first_texts + chunk + 1)
    base = tl.load(dense_starts + first)
    region = block * R + tl.arange(0, R)
    stored = region < side
    count = tl.minimum(tl.load(region_lengths + first_image + image), longest).to(tl.int32)
    real = region < count
    of_regions = tl.load(region_norms + image * side + region, mask=stored, other=0.0)
    if LOG2:
        # Not zero, for that times the -1e30 of no word would be a zero, too.
        of_regions = tl.maximum(of_regions * LOG2E, 1e-20)
    per_region = of_regions if LOG2 else tl.full((R,), LOG2E, tl.float32)
    sharp = scale * LOG2E
    # Regions that are none get no attention.
    shift = tl.where(real, -MIDDLE * sharp, -1e30)
    for text in range(first + tl.program_id(0), end, tl.num_programs(0)):
        start = tl.load(dense_starts + text)
        length = tl.load(dense_starts + text + 1) - start
        from_text = (start - base).to(tl.int64) * stride + image * side
        own, own_attended, of_text = affinities + from_text, attended + from_text, image * capacity + start - base
        level = tl.zeros((R,), tl.float32)
        if NORM == "softmax":
            top = tl.full((R,), -1e30, tl.float32)
            for word in range(0, length, W):
                nth = word + tl.arange(0, W)
                at, inside = nth[:, None] * stride + region[None, :], (nth < length)[:, None] & stored[None, :]
                of_words = tl.load(word_norms + start + nth, mask=nth < length, other=0.0)
                # Less the factor of the region, which changes no maximum.
                s = affinity(own, at, inside, of_words, of_regions, "words" if NORMED else "none")
                s += tl.where(nth < length, 0.0, -1e30)[:, None]
                better = tl.maximum(top, tl.max(s, 0))
                more = tl.exp2(s * per_region[None, :] - (better * per_region)[None, :])
                level = level * tl.exp2((top - better) * per_region) + tl.sum(more, 0)
                top = better
            level = top * per_region + tl.log2(level)
        elif NORM == "clipped_l2":
            for word in range(0, length, W):
                nth = word + tl.arange(0, W)
                at, inside = nth[:, None] * stride + region[None, :], (nth < length)[:, None] & stored[None, :]
                of_words = tl.load(word_norms + start + nth, mask=nth < length, other=0.0)
                y = clipped(affinity(own, at, inside, of_words, of_regions, "both" if NORMED else "none"))
                level += tl.sum(y * y, 0)
            level = tl.sqrt(level) + 1e-8
        if NORM != "none":
            # Nobody may still read, for the level, what is overwritten below.
            tl.debug_barrier()
            if KEEP:
                tl.store(levels + (image * texts_at_once + text - first) * side + region, level, mask=stored)
        for word in range(0, length, W):
            nth = word + tl.arange(0, W)
            real_word = nth < length
            at, inside = nth[:, None] * stride + region[None, :], real_word[:, None] & stored[None, :]
            of_words = tl.load(word_norms + start + nth, mask=real_word, other=0.0)
            # The factor of the word belongs to sums over regions as a whole.
            s = affinity(own, at, inside, of_words, of_regions, "regions" if NORMED else "none")
            x = word_normed(s * of_words[:, None] if NORMED else s, level, NORM, LOG2)
            if REFERENCE == "middle":
                a = tl.exp2(x * sharp + shift[None, :])
            else:
                if REFERENCE == "block":
                    reference = tl.max(tl.where(real[None, :], x, float("-inf")), 1)
                    tl.store(found + block * plane + of_text + nth, reference, mask=real_word)
                else:
                    reference = tl.full((W,), float("-inf"), tl.float32)
                    for other in range(0, planes):
                        of_block = tl.load(found + other * plane + of_text + nth, mask=real_word, other=0.0)
                        reference = tl.maximum(reference, of_block)
                a = tl.where(real[None, :], unnormalized(x, reference[:, None], sharp), 0.0)
            if STORE:
                # d and |c| from the same rounded attention, whose error then cancels in their ratio.
                rounded = kept(a, attended.dtype.element_ty, PRECISION)
                tl.store(own_attended + at, rounded, mask=inside)
                a = rounded.to(tl.float32)
            tl.store(found + (planes + block) * plane + of_text + nth, tl.sum(a, 1), mask=real_word)
            d = tl.sum(a * s, 1)
            if NORMED:
                d *= of_words
            tl.store(found + (2 * planes + block) * plane + of_text + nth, d, mask=real_word)
            if MEANS:
                tl.store(found + (3 * planes + block) * plane + of_text + nth, tl.sum(a * x, 1), mask=real_word)


def attention(
    p: Problem, chunk: Chunk, affinities: Tensor, attended: Tensor, found: Tensor, levels: Tensor | None
) -> None:
    """Fill found (3 or 4, planes, images, capacity); scores that are cosines store the attention, too."""
    blocks = p.blocks.attention
    if not p.bounded:
        # A reference of its own for each word takes registers.
        blocks = blocks._replace(words=max(1, blocks.words // 2))
    references = ["middle"] if p.bounded else ["block", "whole"] if p.cosine else ["block"]
    for reference in references:
        attention_kernel[(p.programs, chunk.images, p.planes(blocks))](
            affinities=affinities,
            attended=attended,
            levels=found if levels is None else levels,
            found=found,
            stride=affinities.stride(0),
            plane=found.stride(1),
            REFERENCE=reference,
            STORE=p.cosine and reference != "block",
            KEEP=levels is not None,
            MEANS=len(found) > 3,
            **p.elementwise_arguments(chunk, blocks),
        )
