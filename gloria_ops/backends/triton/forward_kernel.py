"""The forward kernel: similarities u of the words of a tile with an image, without storing the affinities."""

# ruff: noqa: SIM108
# mypy: disable-error-code="no-untyped-def"
# Triton reads the annotations of kernels, and knows constexpr only.

import triton
import triton.language as tl

from gloria_ops.backends.triton.blocks import (
    SLOTS,
    affinity,
    long_text_level,
    norm_level,
    norm_statistics,
    product,
    word_normed,
)

LOG2E = tl.constexpr(1.4426950408889634)
# exp(scale * (x - MIDDLE)) needs no maximum where x lies in [-1, 1] and the scale is at most BOUNDED_SCALE: it stays
# between e^-30 and e^10, and float32 holds the squares.
MIDDLE = tl.constexpr(0.5)
BOUNDED_SCALE = 20.0
# Images that share a tile of words while it is in the cache, before the next tile.
IMAGES_AT_ONCE = tl.constexpr(8)


@triton.jit
def item_of(item, images, tiles):
    """(image, tile) of a work item: tiles walk slowly, the images of a group fast."""
    group = item // (IMAGES_AT_ONCE * tiles)
    first = group * IMAGES_AT_ONCE
    members = tl.minimum(images - first, IMAGES_AT_ONCE)
    rest = item - first * tiles
    return first + rest % members, rest // members


@triton.jit(do_not_specialize=["first_image", "images", "first_tile", "tiles", "longest", "width"])
def forward_kernel(
    regions,
    region_starts,
    region_lengths,
    words,
    word_norms,
    tile_rows,
    slot_texts,
    tile_spans,
    tile_count,
    gram,
    attended,
    levels,
    similarities,
    word_statistics,
    first_image,
    images,
    first_tile,
    tiles,
    longest,
    width,
    dim,
    side,
    attention_scale,
    NORM: tl.constexpr,
    COSINE: tl.constexpr,
    BOUNDED: tl.constexpr,
    HARD: tl.constexpr,
    GRAM: tl.constexpr,
    KEEP: tl.constexpr,
    R: tl.constexpr,
    C: tl.constexpr,
    K: tl.constexpr,
    PRECISION: tl.constexpr,
    SQUARE_PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Words of the tiles [first_tile, first_tile + tiles) with `images` images from `first_image` on.

    KEEP (for backward): `attended`, the attention without its normaliser (images, tiles, side, C), and word_statistics,
    (4, images, tiles, C): maximum, normaliser and d of the attention, and the norm of the context (all but the maximum
    without the normaliser). Otherwise `attended` and word_statistics hold one (side, C) and (C,) for each program, and
    the kernel writes similarities (images, width) at the rows of the words.
    """
    scale = attention_scale * LOG2E
    columns = tl.arange(0, C)
    in_use = tl.minimum(tl.load(tile_count) - first_tile, tiles)
    for item in range(tl.program_id(0), in_use * images, tl.num_programs(0)):
        image, tile = item_of(item, images, in_use)
        span = tl.load(tile_spans + first_tile + tile)
        own_regions = regions + tl.load(region_starts + first_image + image) * dim
        length = tl.minimum(tl.load(region_lengths + first_image + image), longest).to(tl.int32)
        own_levels = levels + tl.program_id(0).to(tl.int64) * side
        # Nobody may still read what the item before left in the scratch.
        tl.debug_barrier()
        if NORM != "none" and span > 1:
            for first_row in range(0, length, R):
                rows = first_row + tl.arange(0, R)
                level = long_text_level(
                    own_regions, rows, rows < length, words, tile_rows, first_tile + tile, span, dim,
                    R, C, K, NORM, PRECISION, UPCAST,
                )  # fmt: skip
                tl.store(own_levels + rows, tl.max(level, 1))
            tl.debug_barrier()
        for part in range(tile, tile + span):
            word_rows = tl.load(tile_rows + (first_tile + part) * C + columns).to(tl.int64)
            word_real = word_rows >= 0
            slots = slot_texts + (first_tile + part) * SLOTS + tl.arange(0, SLOTS)
            if KEEP:
                own = (image * tiles + part).to(tl.int64)
                plane = images.to(tl.int64) * tiles * C
            else:
                own = tl.program_id(0).to(tl.int64)
                plane = tl.num_programs(0).to(tl.int64) * C
            kept = attended + own * side * C
            statistics = word_statistics + own * C + columns
            best = tl.full((C,), float("-inf"), tl.float32)
            normaliser = tl.zeros((C,), tl.float32)
            d = tl.zeros((C,), tl.float32)
            if BOUNDED:
                best = tl.full((C,), MIDDLE, tl.float32)
            elif COSINE:
                # The contexts need every region under the same maximum, so that comes first.
                for first_row in range(0, length, R):
                    rows = first_row + tl.arange(0, R)
                    s = affinity(
                        own_regions, rows, rows < length, words, word_rows, word_real, dim,
                        R, C, K, PRECISION, UPCAST,
                    )  # fmt: skip
                    x = s
                    if NORM != "none":
                        level = text_level(s, word_real, slots, own_levels + rows, span, NORM)
                        x = word_normed(s, level, word_real, NORM)
                    best = tl.maximum(best, tl.max(tl.where((rows < length)[:, None], x, float("-inf")), 0))
            for first_row in range(0, length, R):
                rows = first_row + tl.arange(0, R)
                real = (rows < length)[:, None]
                s = affinity(
                    own_regions, rows, rows < length, words, word_rows, word_real, dim,
                    R, C, K, PRECISION, UPCAST,
                )  # fmt: skip
                x = s
                if NORM != "none":
                    level = text_level(s, word_real, slots, own_levels + rows, span, NORM)
                    x = word_normed(s, level, word_real, NORM)
                if not COSINE and not BOUNDED:
                    better = tl.maximum(best, tl.max(tl.where(real, x, float("-inf")), 0))
                    if HARD:
                        shrink = tl.where(best == better, 1.0, 0.0)
                    else:
                        shrink = tl.exp2((best - better) * scale)
                    normaliser *= shrink
                    d *= shrink
                    best = better
                if HARD:
                    # NaN is best nowhere, and must show.
                    a = tl.where(x == best[None, :], 1.0, tl.where(x == x, 0.0, x))
                else:
                    a = tl.exp2((x - best[None, :]) * scale)
                a = tl.where(real, a, 0.0)
                if COSINE:
                    # d and |c| from the same rounded attention, whose error then cancels in their ratio.
                    rounded = a.to(attended.dtype.element_ty)
                    tl.store(kept + rows[:, None] * C + columns[None, :], rounded)
                    a = rounded.to(tl.float32)
                normaliser += tl.sum(a, 0)
                d += tl.sum(a * s, 0)
            if KEEP:
                tl.store(statistics, best)
            if COSINE or KEEP:
                tl.store(statistics + plane, normaliser)
                tl.store(statistics + 2 * plane, d)
            if COSINE:
                # All of the tile's attention must be written before anyone reads it.
                tl.debug_barrier()
                if GRAM:
                    square = square_by_gram(
                        gram + image.to(tl.int64) * side * side, kept, length, side, R, C, K, SQUARE_PRECISION, UPCAST
                    )
                else:
                    square = square_by_context(own_regions, kept, length, dim, R, C, K, SQUARE_PRECISION, UPCAST)
                norm = tl.sqrt(tl.maximum(square, 0.0))
                if KEEP:
                    tl.store(statistics + 3 * plane, norm)
                if span > 1:
                    tl.debug_barrier()
            if not KEEP:
                u = d / normaliser
                if COSINE:
                    # Read again, for they would take registers that the products above need.
                    word_rows = tl.load(tile_rows + (first_tile + part) * C + columns).to(tl.int64)
                    word_real = word_rows >= 0
                    normaliser = tl.load(statistics + plane)
                    word_norm = tl.load(word_norms + word_rows, mask=word_real, other=1.0)
                    u = tl.load(statistics + 2 * plane) / tl.maximum(norm * word_norm, 1e-8 * normaliser)
                u = tl.where(tl.load(region_lengths + first_image + image) > longest, float("nan"), u)
                tl.store(similarities + image.to(tl.int64) * width + word_rows, u, mask=word_real)


@triton.jit
def text_level(s, word_real, slots, long_levels, span, NORM: tl.constexpr):
    """norm_level (R, SLOTS) of the texts of a tile; that of a text longer than the tile was computed before."""
    if span > 1:
        level = tl.broadcast_to(tl.load(long_levels)[:, None], (s.shape[0], SLOTS))
    else:
        # Read for each block of regions anew: registers are what this kernel lacks.
        texts = tl.load(slots)
        top, total = norm_statistics(s, word_real, texts, NORM)
        level = norm_level(top, total, NORM)
    return level


@triton.jit
def square_by_gram(
    gram,
    attended,
    length,
    side,
    R: tl.constexpr,
    C: tl.constexpr,
    K: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """|c|^2 = a^T G a of each column (C,), from the upper triangle of blocks of G; others count twice."""
    columns = tl.arange(0, C)
    square = tl.zeros((C,), tl.float32)
    padded = tl.cdiv(length, R) * R
    for first_row in range(0, length, R):
        rows = first_row + tl.arange(0, R)
        acc = tl.zeros((R, C), tl.float32)
        for first in range(first_row + R, padded, K):
            k = first + tl.arange(0, K)
            g = tl.load(gram + rows[:, None] * side + k[None, :])
            a = tl.load(attended + k[:, None] * C + columns[None, :])
            acc = product(g, a, acc, PRECISION, UPCAST)
        acc *= 2.0
        for first in range(first_row, first_row + R, K):
            k = first + tl.arange(0, K)
            g = tl.load(gram + rows[:, None] * side + k[None, :])
            a = tl.load(attended + k[:, None] * C + columns[None, :])
            acc = product(g, a, acc, PRECISION, UPCAST)
        own = tl.load(attended + rows[:, None] * C + columns[None, :]).to(tl.float32)
        square += tl.sum(acc * own, 0)
    return square


@triton.jit
def square_by_context(
    regions,
    attended,
    length,
    dim,
    R: tl.constexpr,
    C: tl.constexpr,
    K: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """|c|^2 of each column (C,) from the context itself, R of its components at a time."""
    columns = tl.arange(0, C)
    square = tl.zeros((C,), tl.float32)
    padded = tl.cdiv(length, K) * K
    for first_component in range(0, dim, R):
        components = first_component + tl.arange(0, R)
        context = tl.zeros((R, C), tl.float32)
        for first in range(0, padded, K):
            k = first + tl.arange(0, K)
            v = tl.load(
                regions + k[None, :] * dim + components[:, None],
                mask=(k < length)[None, :] & (components < dim)[:, None],
                other=0.0,
            )
            a = tl.load(attended + k[:, None] * C + columns[None, :])
            context = product(v.to(attended.dtype.element_ty), a, context, PRECISION, UPCAST)
        square += tl.sum(context * context, 0)
    return square
