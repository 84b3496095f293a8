"""Backward of a hard maximum: of each word with an image the best region, or those that tie, and nothing of the others.

Two products and a gradient of the size of the affinities become sums of the rows that are the best: those of regions
for each word, and those of words for each region. Each sum has one program, which takes its terms in their order.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton reads the annotations of kernels, and knows constexpr only.

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from gloria_ops.backends.triton.device import rows_of_chunk
from gloria_ops.backends.triton.problem import Chunk, Problem

# In place of a word's best region where several tie.
TIED = tl.constexpr(-1)
# Words among which a region looks for its own at a time, and of these how many it reads at once: one may be the best of
# all words.
WORDS, AT_ONCE = 512, 8


@triton.jit
def is_best(affinities, at, mask, of_words, of_regions, reference, NORMED: tl.constexpr):
    """Whether stored affinities are their word's greatest; one that is not a number is, and shows."""
    s = tl.load(affinities + at, mask=mask, other=0.0).to(tl.float32)
    if NORMED:
        # In the order of `device.affinity`, for the greatest is recognized by its bits.
        s *= of_regions
        s *= of_words
    return mask & ((s >= reference) | (s != s))


@triton.jit(do_not_specialize=["chunk", "first_image", "images", "longest", "capacity"])
def best_regions_kernel(
    affinities,
    packed_regions,
    coefficients,
    word_norms,
    region_norms,
    bests,
    origins,
    grad_words,
    rest,
    dense_starts,
    first_texts,
    region_lengths,
    chunk,
    first_image,
    images,
    longest,
    stride,
    side,
    capacity,
    width,
    dim,
    NORMED: tl.constexpr,
    SPLIT: tl.constexpr,
    R: tl.constexpr,
    D: tl.constexpr,
):
    """grad_words (L_t, D) += gu / number of the best * these, image after image; bests (images, capacity): which.

    One program: one word of the chunk, whose gradient, rest (see `products.words_kernel`) and bests it alone writes.
    """
    base, count = rows_of_chunk(dense_starts, first_texts, chunk)
    row = tl.program_id(0)
    if row < count:
        region, d = tl.arange(0, R), tl.arange(0, D)
        of_word = tl.load(word_norms + base + row)
        acc = tl.zeros((D,), tl.float32)
        for image in range(0, images):
            real = region < tl.minimum(tl.load(region_lengths + first_image + image), longest).to(tl.int32)
            of_regions = tl.load(region_norms + image * side + region, mask=real, other=0.0)
            reference = tl.load(coefficients + (5 * images + image) * capacity + row)
            at = row.to(tl.int64) * stride + image * side + region
            best = is_best(affinities, at, real, of_word, of_regions, reference, NORMED)
            weight = tl.load(coefficients + image * capacity + row)
            left = tl.sum(best.to(tl.int32), 0)
            nearest = tl.min(tl.where(best, region, R), 0)
            tl.store(bests + image * capacity + row, tl.where(left == 1, nearest, TIED))
            own = packed_regions + tl.cast(image, tl.int64) * side * dim
            while left > 0:
                v = tl.load(own + nearest * dim + d, mask=d < dim, other=0.0).to(tl.float32)
                nearest = tl.min(tl.where(best & (region > nearest), region, R), 0)
                left -= 1
                acc += weight * v
        to = grad_words + tl.load(origins + base + row) * width + d
        to_rest = rest + (base + row).to(tl.int64) * dim + d
        acc += tl.load(to, mask=d < width, other=0.0).to(tl.float32)
        if SPLIT:
            acc += tl.load(to_rest, mask=d < width, other=0.0).to(tl.float32)
        rounded = acc.to(grad_words.dtype.element_ty)
        tl.store(to, rounded, mask=d < width)
        if SPLIT:
            tl.store(to_rest, (acc - rounded.to(tl.float32)).to(rest.dtype.element_ty), mask=d < width)


@triton.jit(do_not_specialize=["chunk", "first_image", "longest", "capacity"])
def best_words_kernel(
    affinities,
    packed_words,
    coefficients,
    word_norms,
    region_norms,
    bests,
    sums,
    dense_starts,
    first_texts,
    region_lengths,
    chunk,
    first_image,
    longest,
    stride,
    side,
    capacity,
    dim,
    NORMED: tl.constexpr,
    C: tl.constexpr,
    G: tl.constexpr,
    D: tl.constexpr,
):
    """Sums (columns, D) += gu / number of the best * words that a region is the best of, or set with the first chunk.

    One program: one region of one image, whose sum it alone writes. Only of words with ties are affinities looked at.
    """
    base, count = rows_of_chunk(dense_starts, first_texts, chunk)
    region, image = tl.program_id(0), tl.program_id(1)
    if region < tl.load(region_lengths + first_image + image):
        d = tl.arange(0, D)
        of_region = tl.load(region_norms + image * side + region)
        acc = tl.zeros((D,), tl.float32)
        for first in range(0, count, C):
            row = first + tl.arange(0, C)
            at = image * capacity + row
            best = tl.load(bests + at, mask=row < count, other=side)
            tied = best == TIED
            own = best == region
            if tl.max(tied.to(tl.int32), 0) > 0:
                of_words = tl.load(word_norms + base + row, mask=tied, other=0.0)
                reference = tl.load(coefficients + 5 * tl.num_programs(1) * capacity + at, mask=tied, other=0.0)
                of_row = row.to(tl.int64) * stride + image * side + region
                own = own | is_best(affinities, of_row, tied, of_words, of_region, reference, NORMED)
            place, found = tl.cumsum(own.to(tl.int32), 0), tl.sum(own.to(tl.int32), 0)
            for some in range(0, found, G):
                nth = some + 1 + tl.arange(0, G)
                chosen = own[None, :] & (place[None, :] == nth[:, None])
                word = tl.sum(tl.where(chosen, row[None, :], 0), 1)
                weight = tl.load(coefficients + image * capacity + word, mask=nth <= found, other=0.0)
                t = packed_words + (base + word).to(tl.int64)[:, None] * dim + d[None, :]
                t = tl.load(t, mask=(nth <= found)[:, None] & (d < dim)[None, :], other=0.0)
                acc += tl.sum(weight[:, None] * t.to(tl.float32), 0)
        to = sums + (image * side + region).to(tl.int64) * dim + d
        if chunk > 0:
            acc += tl.load(to, mask=d < dim, other=0.0)
        tl.store(to, acc, mask=d < dim)


def best_regions(
    p: Problem,
    chunk: Chunk,
    affinities: Tensor,
    coefficients: Tensor,
    bests: Tensor,
    grad_words: Tensor,
    rest: Tensor | None,
) -> None:
    """Add to grad_words, and to their rest where they have one; fill bests (images, capacity)."""
    most = triton.next_power_of_2(p.longest)
    best_regions_kernel[(p.plan.capacity,)](
        packed_regions=chunk.packed_regions,
        origins=p.origins,
        grad_words=grad_words,
        rest=grad_words if rest is None else rest,
        images=chunk.images,
        width=grad_words.shape[1],
        SPLIT=rest is not None,
        R=most,
        num_warps=_warps(1, max(most, p.dim)),
        **_arguments(p, chunk, affinities, coefficients, bests),
    )


def best_words(p: Problem, chunk: Chunk, affinities: Tensor, coefficients: Tensor, bests: Tensor, sums: Tensor) -> None:
    """Add to sums (columns, D), or set them with the first chunk of texts; those of no region stay what they are."""
    best_words_kernel[p.longest, chunk.images](
        packed_words=p.packed_words,
        sums=sums,
        C=WORDS,
        G=AT_ONCE,
        num_warps=_warps(4, p.dim),
        **_arguments(p, chunk, affinities, coefficients, bests),
    )


def _warps(least: int, width: int) -> int:
    """More for what is wide, whose registers one warp has not."""
    return min(8, max(least, least * triton.next_power_of_2(width) // 1024))


def _arguments(p: Problem, chunk: Chunk, affinities: Tensor, coefficients: Tensor, bests: Tensor) -> dict[str, Any]:
    return {
        "affinities": affinities,
        "coefficients": coefficients,
        "word_norms": p.word_norms[0],
        "region_norms": chunk.region_norms[0],
        "bests": bests,
        "stride": affinities.stride(0),
        "side": p.side,
        "capacity": p.plan.capacity,
        "dim": p.dim,
        "NORMED": p.normed,
        "D": triton.next_power_of_2(p.dim),
        **p.image_arguments(chunk),
    }
