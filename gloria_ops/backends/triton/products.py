"""The products of backward: gs with the regions and the words, and the gradient that flows through the Gram matrix.

Sums over images and over tiles run in their order, so that the same inputs give the same bits.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton reads the annotations of kernels, and knows constexpr only.

import triton
import triton.language as tl

from gloria_ops.backends.triton.blocks import product


@triton.jit(do_not_specialize=["first_image", "images", "first_tile", "tiles", "longest"])
def words_kernel(
    gradient,
    coefficients,
    regions,
    region_starts,
    region_lengths,
    words,
    tile_rows,
    tile_count,
    grad_words,
    rest,
    first_image,
    images,
    first_tile,
    tiles,
    longest,
    dim,
    side,
    COSINE: tl.constexpr,
    SPLIT: tl.constexpr,
    C: tl.constexpr,
    B: tl.constexpr,
    K: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """grad_words (L_t, D) += the share of these images. One program: a tile of words, B of D components.

    SPLIT: what rounding leaves of the sum is kept in `rest`, of the same shape.
    """
    tile = tl.program_id(1)
    columns = tl.arange(0, C)
    if first_tile + tile < tl.load(tile_count):
        rows = tl.load(tile_rows + (first_tile + tile) * C + columns).to(tl.int64)
        real = rows >= 0
        if tl.max(rows, 0) >= 0:
            d = tl.program_id(0) * B + tl.arange(0, B)
            acc = tl.zeros((C, B), tl.float32)
            along = tl.zeros((C,), tl.float32)
            for image in range(0, images):
                start = tl.load(region_starts + first_image + image)
                length = tl.minimum(tl.load(region_lengths + first_image + image), longest).to(tl.int32)
                at = (image * tiles + tile).to(tl.int64) * C
                for first in range(0, length, K):
                    k = first + tl.arange(0, K)
                    gs = tl.load(gradient + at * side + k[None, :] * C + columns[:, None])
                    v = tl.load(
                        regions + (start + k)[:, None] * dim + d[None, :],
                        mask=(k < length)[:, None] & (d < dim)[None, :],
                        other=0.0,
                    )
                    acc = product(gs, v.to(gradient.dtype.element_ty), acc, PRECISION, UPCAST)
                if COSINE:
                    along += tl.load(coefficients + 4 * images.to(tl.int64) * tiles * C + at + columns)
            to = rows[:, None] * dim + d[None, :]
            inside = real[:, None] & (d < dim)[None, :]
            acc += tl.load(grad_words + to, mask=inside, other=0.0).to(tl.float32)
            if SPLIT:
                acc += tl.load(rest + to, mask=inside, other=0.0).to(tl.float32)
            if COSINE:
                acc += along[:, None] * tl.load(words + to, mask=inside, other=0.0).to(tl.float32)
            rounded = acc.to(grad_words.dtype.element_ty)
            tl.store(grad_words + to, rounded, mask=inside)
            if SPLIT:
                tl.store(rest + to, (acc - rounded.to(tl.float32)).to(rest.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["first_image", "first_tile", "tiles", "longest"])
def regions_kernel(
    gradient,
    region_lengths,
    words,
    tile_rows,
    tile_count,
    sums,
    first_image,
    first_tile,
    tiles,
    longest,
    dim,
    side,
    R: tl.constexpr,
    C: tl.constexpr,
    B: tl.constexpr,
    K: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Sums (images, side, D) float32 += gs T. One program: R regions of one image, B of their D components."""
    image = tl.program_id(2)
    rows = tl.program_id(1) * R + tl.arange(0, R)
    in_use = tl.minimum(tl.load(tile_count) - first_tile, tiles)
    length = tl.minimum(tl.load(region_lengths + first_image + image), longest).to(tl.int32)
    if (tl.program_id(1) * R < length) & (in_use > 0):
        d = tl.program_id(0) * B + tl.arange(0, B)
        acc = tl.zeros((R, B), tl.float32)
        for first in range(0, in_use * C, K):
            tile = first // C
            column = first % C + tl.arange(0, K)
            word_rows = tl.load(tile_rows + (first_tile + tile) * C + column).to(tl.int64)
            real = word_rows >= 0
            # Tiles without a word are never written: they are left out here, not multiplied by zero.
            gs = tl.load(
                gradient + (image * tiles + tile).to(tl.int64) * side * C + rows[:, None] * C + column[None, :],
                mask=real[None, :],
                other=0.0,
            )
            t = tl.load(
                words + word_rows[:, None] * dim + d[None, :], mask=real[:, None] & (d < dim)[None, :], other=0.0
            )
            acc = product(gs, t.to(gradient.dtype.element_ty), acc, PRECISION, UPCAST)
        to = (image.to(tl.int64) * side + rows)[:, None] * dim + d[None, :]
        inside = (d < dim)[None, :] & (rows < length)[:, None]
        tl.store(sums + to, acc + tl.load(sums + to, mask=inside, other=0.0), mask=inside)


@triton.jit(do_not_specialize=["first_image", "images", "first_tile", "tiles", "longest"])
def gram_gradient_kernel(
    attended,
    coefficients,
    region_lengths,
    tile_rows,
    tile_count,
    grad_gram,
    first_image,
    images,
    first_tile,
    tiles,
    longest,
    side,
    R: tl.constexpr,
    C: tl.constexpr,
    K: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """grad_gram (images, side, side) float32 += 2 gG, both halves of it. One program: one block of the upper half."""
    column_block, row_block, image = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    in_use = tl.minimum(tl.load(tile_count) - first_tile, tiles)
    length = tl.minimum(tl.load(region_lengths + first_image + image), longest).to(tl.int32)
    if (row_block <= column_block) & (column_block * R < length) & (in_use > 0):
        rows = row_block * R + tl.arange(0, R)
        others = column_block * R + tl.arange(0, R)
        plane = images.to(tl.int64) * tiles * C
        acc = tl.zeros((R, R), tl.float32)
        for first in range(0, in_use * C, K):
            tile = first // C
            column = first % C + tl.arange(0, K)
            real = tl.load(tile_rows + (first_tile + tile) * C + column) >= 0
            at = (image * tiles + tile).to(tl.int64) * C
            # gn / |c| over l squared: the attention is kept without its normaliser l.
            weight = tl.load(coefficients + plane + at + column, mask=real, other=0.0)
            weight *= tl.load(coefficients + 2 * plane + at + column, mask=real, other=0.0)
            # Rows beyond the image are written to the end of a block of the forward kernel only.
            a = tl.load(
                attended + at * side + rows[:, None] * C + column[None, :],
                mask=(rows < length)[:, None] & real[None, :],
                other=0.0,
            )
            b = tl.load(
                attended + at * side + others[None, :] * C + column[:, None],
                mask=(others < length)[None, :] & real[:, None],
                other=0.0,
            )
            weighted = (a.to(tl.float32) * weight[None, :]).to(attended.dtype.element_ty)
            acc = product(weighted, b, acc, PRECISION, UPCAST)
        grad_gram += image.to(tl.int64) * side * side
        to = grad_gram + rows[:, None] * side + others[None, :]
        acc += tl.load(to)
        tl.store(to, acc)
        tl.store(grad_gram + others[:, None] * side + rows[None, :], tl.trans(acc))


@triton.jit(do_not_specialize=["first_image", "longest"])
def finish_kernel(
    sums,
    grad_gram,
    regions,
    region_starts,
    region_lengths,
    grad_regions,
    first_image,
    longest,
    dim,
    side,
    COSINE: tl.constexpr,
    R: tl.constexpr,
    B: tl.constexpr,
    K: tl.constexpr,
    SCRATCH: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """grad_regions (L_v, D) = gs T + 2 gG V, in their own dtype. One program: R regions, B of D components."""
    image = tl.program_id(2)
    start = tl.load(region_starts + first_image + image)
    length = tl.minimum(tl.load(region_lengths + first_image + image), longest).to(tl.int32)
    if tl.program_id(1) * R < length:
        rows = tl.program_id(1) * R + tl.arange(0, R)
        d = tl.program_id(0) * B + tl.arange(0, B)
        inside = (rows < length)[:, None] & (d < dim)[None, :]
        acc = tl.load(sums + (image.to(tl.int64) * side + rows)[:, None] * dim + d[None, :], mask=inside, other=0.0)
        if COSINE:
            for first in range(0, length, K):
                k = first + tl.arange(0, K)
                g = tl.load(grad_gram + image.to(tl.int64) * side * side + rows[:, None] * side + k[None, :])
                v = tl.load(
                    regions + (start + k)[:, None] * dim + d[None, :],
                    mask=(k < length)[:, None] & (d < dim)[None, :],
                    other=0.0,
                )
                acc = product(g.to(SCRATCH), v.to(SCRATCH), acc, PRECISION, UPCAST)
        to = grad_regions + (start + rows)[:, None] * dim + d[None, :]
        tl.store(to, acc.to(grad_regions.dtype.element_ty), mask=inside)
