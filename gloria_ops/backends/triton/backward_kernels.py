"""The backward kernels: from the gradient of the scores to gs, that of the affinities, in chunks."""

# ruff: noqa: SIM108
# mypy: disable-error-code="no-untyped-def"
# Triton reads the annotations of kernels, and knows constexpr only.

import triton
import triton.language as tl

from gloria_ops.backends.triton.blocks import (
    SLOTS,
    affinity,
    long_text_level,
    merge,
    norm_level,
    norm_statistics,
    product,
    spread,
    text_max,
    text_sum,
    word_normed,
)
from gloria_ops.backends.triton.forward_kernel import LOG2E


@triton.jit
def pool_statistics(u, word_real, texts, POOL: tl.constexpr):
    """What the gradient of a pool needs of a text, u (1, C): maximum, and a sum of exponentials or count of words."""
    u = tl.where(word_real, u, float("-inf"))
    top = text_max(u, texts)
    top = tl.where(top == float("-inf"), 0.0, top)
    if POOL == "logsumexp":
        total = text_sum(tl.exp(u - spread(top, u.shape[1])), texts)
    elif POOL == "max":
        total = text_sum(tl.where(u == spread(top, u.shape[1]), 1.0, 0.0), texts)
    else:
        total = text_sum(tl.where(word_real, 1.0, 0.0), texts)
    return top, total


@triton.jit(do_not_specialize=["first_image", "images", "texts", "first_tile", "tiles"])
def word_gradient_kernel(
    grad_scores,
    word_norms,
    tile_rows,
    slot_texts,
    tile_spans,
    tile_count,
    word_statistics,
    coefficients,
    first_image,
    images,
    texts,
    first_tile,
    tiles,
    word_scale,
    COSINE: tl.constexpr,
    POOL: tl.constexpr,
    POOL_DIVIDE: tl.constexpr,
    C: tl.constexpr,
):
    """The gradients of d and |c|, and what else `affinity_gradient_kernel` needs: coefficients (5, images, tiles, C).

    One program: the texts that begin in one tile, with one image. With A the attention without its normaliser l, which
    is what `attended` holds, and Y = G A:

        0  gd                       ga = gd s + (1) Y
        1  gn / (|c| l)
        2  1 / l                    a = (2) A
        3  sum_j a ga               = gd d + gn |c|
        4  -gu u / |t|^2            the part of gt along t
    """
    tile, image = tl.program_id(0), tl.program_id(1)
    columns = tl.arange(0, C)
    plane = images.to(tl.int64) * tiles * C
    if first_tile + tile < tl.load(tile_count):
        span = tl.load(tile_spans + first_tile + tile)
        top = tl.full((1, SLOTS), float("-inf"), tl.float32)
        total = tl.zeros((1, SLOTS), tl.float32)
        # Twice over the parts: a long text is pooled from all of them.
        for step in range(0, 2 * span):
            part = tile + step % span
            rows = tl.load(tile_rows + (first_tile + part) * C + columns).to(tl.int64)
            real = rows >= 0
            slots = tl.load(slot_texts + (first_tile + part) * SLOTS + tl.arange(0, SLOTS))
            owners = tl.where(span > 1, 0, slots)
            at = (image * tiles + part).to(tl.int64) * C + columns
            normaliser = tl.load(word_statistics + plane + at)
            d = tl.load(word_statistics + 2 * plane + at) / normaliser
            u = d
            if COSINE:
                norm = tl.load(word_statistics + 3 * plane + at) / normaliser
                word_norm = tl.load(word_norms + rows, mask=real, other=1.0)
                u = d / tl.maximum(norm * word_norm, 1e-8)
            if POOL == "logsumexp":
                pooled = word_scale * u
            else:
                pooled = u
            if step < span:
                # The tiles behind the last word of a long text hold nothing.
                if tl.max(rows, 0) >= 0:
                    part_top, part_total = pool_statistics(pooled[None, :], real[None, :], owners, POOL)
                    if POOL == "logsumexp":
                        top, total = merge(top, total, part_top, part_total)
                    else:
                        both = tl.maximum(top, part_top)
                        if POOL == "max":
                            total = tl.where(top == both, total, 0.0) + tl.where(part_top == both, part_total, 0.0)
                        else:
                            total += part_total
                        top = both
            else:
                top_of_word = tl.reshape(spread(top, C), (C,))
                total_of_word = tl.reshape(spread(total, C), (C,))
                if POOL == "logsumexp":
                    share = tl.exp(pooled - top_of_word) / total_of_word
                    if not POOL_DIVIDE:
                        share *= word_scale
                elif POOL == "max":
                    share = tl.where(u == top_of_word, 1.0, 0.0) / total_of_word
                elif POOL == "mean":
                    share = 1.0 / total_of_word
                else:
                    share = tl.full((C,), 1.0, tl.float32)
                g = tl.load(
                    grad_scores + (first_image + image).to(tl.int64) * texts + slots, mask=slots >= 0, other=0.0
                )
                gu = tl.reshape(spread(g[None, :], C), (C,)) * share
                gd = gu
                inner = gd * d
                by_gram = tl.zeros((C,), tl.float32)
                along = tl.zeros((C,), tl.float32)
                if COSINE:
                    lengths = norm * word_norm
                    gd = gu / tl.maximum(lengths, 1e-8)
                    # Below its lower bound the product of the norms has no gradient.
                    gn = tl.where(lengths >= 1e-8, -gu * u / norm, 0.0)
                    along = tl.where(lengths >= 1e-8, -gu * u / (word_norm * word_norm), 0.0)
                    inner = gd * d + gn * norm
                    by_gram = tl.where(norm > 0, gn / (norm * normaliser), 0.0)
                tl.store(coefficients + at, tl.where(real, gd, 0.0))
                tl.store(coefficients + plane + at, tl.where(real, by_gram, 0.0))
                tl.store(coefficients + 2 * plane + at, tl.where(real, 1.0 / normaliser, 0.0))
                tl.store(coefficients + 3 * plane + at, tl.where(real, inner, 0.0))
                tl.store(coefficients + 4 * plane + at, tl.where(real, along, 0.0))


@triton.jit
def gram_product(
    gram,
    attended,
    rows,
    length,
    side,
    COSINE: tl.constexpr,
    C: tl.constexpr,
    K: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Y = G A of one block (R, C); without the cosine nothing passes through the context, and Y is zero."""
    columns = tl.arange(0, C)
    y = tl.zeros((rows.shape[0], C), tl.float32)
    if COSINE:
        for first in range(0, tl.cdiv(length, K) * K, K):
            k = first + tl.arange(0, K)
            g = tl.load(gram + rows[:, None] * side + k[None, :])
            a = tl.load(attended + k[:, None] * C + columns[None, :])
            y = product(g, a, y, PRECISION, UPCAST)
    return y


@triton.jit
def attention_gradient(s, x, y, real, coefficients, word_statistics, at, plane, scale, HARD: tl.constexpr):
    """Gd a, and gx, both (R, C), of one block; `at` are its words among the coefficients."""
    gd = tl.load(coefficients + at)[None, :]
    best = tl.load(word_statistics + at)[None, :]
    if HARD:
        a = tl.where(x == best, 1.0, 0.0)
    else:
        a = tl.exp2((x - best) * (scale * LOG2E))
    a = tl.where(real[:, None], a * tl.load(coefficients + 2 * plane + at)[None, :], 0.0)
    if HARD:
        gx = tl.zeros_like(a)
    else:
        ga = gd * s + tl.load(coefficients + plane + at)[None, :] * y
        gx = scale * a * (ga - tl.load(coefficients + 3 * plane + at)[None, :])
    return gd * a, gx


@triton.jit(do_not_specialize=["first_image", "images", "first_tile", "tiles", "longest"])
def affinity_gradient_kernel(
    regions,
    region_starts,
    region_lengths,
    words,
    tile_rows,
    slot_texts,
    tile_spans,
    tile_count,
    gram,
    attended,
    word_statistics,
    coefficients,
    gradient,
    first_image,
    images,
    first_tile,
    tiles,
    longest,
    dim,
    side,
    attention_scale,
    NORM: tl.constexpr,
    COSINE: tl.constexpr,
    HARD: tl.constexpr,
    R: tl.constexpr,
    C: tl.constexpr,
    K: tl.constexpr,
    PRECISION: tl.constexpr,
    SQUARE_PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """gs: gradient (images, tiles, side, C), zero where there is no word or region.

    One program: R regions of one image with the texts that begin in one tile.
    """
    first_row, tile, image = tl.program_id(0) * R, tl.program_id(1), tl.program_id(2)
    length = tl.minimum(tl.load(region_lengths + first_image + image), longest).to(tl.int32)
    if (first_tile + tile < tl.load(tile_count)) & (first_row < length):
        span = tl.load(tile_spans + first_tile + tile)
        own_regions = regions + tl.load(region_starts + first_image + image) * dim
        columns = tl.arange(0, C)
        rows = first_row + tl.arange(0, R)
        real = rows < length
        gram += image.to(tl.int64) * side * side
        plane = images.to(tl.int64) * tiles * C
        own = image * tiles + tile
        long_level = tl.zeros((R, SLOTS), tl.float32)
        long_inner = tl.zeros((R, SLOTS), tl.float32)
        if NORM != "none" and span > 1:
            long_level = long_text_level(
                own_regions, rows, real, words, tile_rows, first_tile + tile, span, dim,
                R, C, K, NORM, PRECISION, UPCAST,
            )  # fmt: skip
            one_text = tl.zeros((SLOTS,), tl.int32)
            for part in range(0, span):
                word_rows = tl.load(tile_rows + (first_tile + tile + part) * C + columns).to(tl.int64)
                word_real = word_rows >= 0
                if tl.max(word_rows, 0) >= 0:
                    at = (own + part).to(tl.int64) * C
                    y = gram_product(
                        gram, attended + at * side, rows, length, side, COSINE, C, K, SQUARE_PRECISION, UPCAST
                    )
                    s = affinity(own_regions, rows, real, words, word_rows, word_real, dim, R, C, K, PRECISION, UPCAST)
                    x = word_normed(s, long_level, word_real, NORM)
                    _, gx = attention_gradient(
                        s, x, y, real, coefficients, word_statistics, at + columns, plane, attention_scale, HARD
                    )
                    long_inner += text_sum(x * gx, one_text)
        for part in range(0, span):
            word_rows = tl.load(tile_rows + (first_tile + tile + part) * C + columns).to(tl.int64)
            word_real = word_rows >= 0
            at = (own + part).to(tl.int64) * C
            # Before s, so that fewer blocks are alive at once.
            y = gram_product(gram, attended + at * side, rows, length, side, COSINE, C, K, SQUARE_PRECISION, UPCAST)
            s = affinity(own_regions, rows, real, words, word_rows, word_real, dim, R, C, K, PRECISION, UPCAST)
            level, inner = long_level, long_inner
            x = s
            if NORM != "none":
                texts = tl.load(slot_texts + (first_tile + tile + part) * SLOTS + tl.arange(0, SLOTS))
                if span == 1:
                    top, total = norm_statistics(s, word_real, texts, NORM)
                    level = norm_level(top, total, NORM)
                x = word_normed(s, level, word_real, NORM)
            gs, gx = attention_gradient(
                s, x, y, real, coefficients, word_statistics, at + columns, plane, attention_scale, HARD
            )
            if NORM == "none":
                gs += gx
            else:
                if span == 1:
                    inner = text_sum(x * gx, texts)
                if NORM == "softmax":
                    gs += x * (gx - spread(inner, C))
                else:
                    root = level - 1e-8
                    inner = tl.where(root > 0, inner / root, 0.0)
                    slope = tl.where(s > 0, 1.0, 0.1)
                    gs += slope * (gx / spread(level, C) - x * spread(inner, C))
            gs = tl.where(real[:, None] & word_real[None, :], gs, 0.0)
            to = gradient + at * side
            tl.store(to + rows[:, None] * C + columns[None, :], gs.to(gradient.dtype.element_ty))
