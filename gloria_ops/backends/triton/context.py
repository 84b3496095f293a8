"""The lengths of the contexts: |c|^2 = a^T G a with the Gram matrix G = V V^T of an image, or from c where that errs.

The error of a^T G a is that of G, about eps * q with q = sum_j a_j^2 |v_j|^2, whatever cancels in c. That of c itself
is eps * sqrt(q), so that |c|^2 errs by 2 eps |c| sqrt(q). The first is the greater where |c|^2 < q / 4: such words go
the direct way, each by itself. Where c cancels, d = sum_j a_j s_j cancels too, so that <c, t> takes its place.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton reads the annotations of kernels, and knows constexpr only.

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from gloria_ops.backends.triton.block_sizes import Blocks
from gloria_ops.backends.triton.device import dot, kept, quarters, rows_of_chunk
from gloria_ops.backends.triton.problem import Chunk, Problem

CANCELLED = tl.constexpr(0.25)
# In place of a square that is to be taken the direct way; a true one is not below zero.
LOST = tl.constexpr(-1.0)


@triton.jit
def gram_kernel(
    packed_regions,
    grams,
    side,
    gram_side,
    dim,
    BOTH: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Grams (images, gram_side, gram_side), zero beyond `side`. One program: one N x N block of the upper triangle.

    BOTH quarters are written, or the upper one with the blocks off the diagonal doubled. Each program writes its block
    and the one that mirrors it, which is another but on the diagonal, where it is not written: no address has two
    writers.
    """
    column, row, image = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    if row <= column:
        rows, others, k = row * N + tl.arange(0, N), column * N + tl.arange(0, N), tl.arange(0, K)
        own = packed_regions + image * side * dim
        left = own + tl.minimum(rows, side - 1)[:, None] * dim + k[None, :]
        right = own + tl.minimum(others, side - 1)[None, :] * dim + k[:, None]
        acc = tl.zeros((N, N), tl.float32)
        for _ in range(0, dim, K):
            acc = dot(tl.load(left), tl.load(right), acc, PRECISION, UPCAST)
            left += K
            right += K
        acc = tl.where((rows < side)[:, None] & (others < side)[None, :], acc, 0.0)
        to = grams + image * gram_side * gram_side
        block = kept(acc, grams.dtype.element_ty, PRECISION)
        if BOTH:
            if row != column:
                tl.store(to + others[:, None] * gram_side + rows[None, :], tl.trans(block))
        elif row != column:
            block = kept(2.0 * acc, grams.dtype.element_ty, PRECISION)
        tl.store(to + rows[:, None] * gram_side + others[None, :], block)


@triton.jit(do_not_specialize=["chunk", "capacity"])
def square_kernel(
    attended,
    grams,
    region_norms,
    squares,
    dense_starts,
    first_texts,
    chunk,
    stride,
    side,
    gram_side,
    capacity,
    M: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Squares (images, capacity): e^T G e of each word, e being the attention without its normalizer, or LOST.

    From the upper triangle of blocks of G, those off the diagonal doubled. One program: M words with one image; it
    writes their squares only.
    """
    count = rows_of_chunk(dense_starts, first_texts, chunk)[1]
    if tl.program_id(0) * M < count:
        image = tl.program_id(1)
        rows, k = tl.program_id(0) * M + tl.arange(0, M), tl.arange(0, K)
        own = attended + image * side + (tl.program_id(0) * M).to(tl.int64) * stride
        own += tl.arange(0, M)[:, None] * stride
        gram = grams + image.to(tl.int64) * gram_side * gram_side
        square = tl.zeros((M,), tl.float32)
        apart = tl.zeros((M,), tl.float32)
        for column in range(0, side, N):
            acc = tl.zeros((M, N), tl.float32)
            a = own + k[None, :]
            g = gram + k[:, None] * gram_side + (column + tl.arange(0, N))[None, :]
            for first in range(0, tl.minimum(column + N, side), K):
                left = tl.load(a, mask=(k < side - first)[None, :], other=0.0)
                acc = dot(left, tl.load(g), acc, PRECISION, UPCAST)
                a += K
                g += K * gram_side
            parts = quarters(acc, M, N)
            for part in tl.static_range(4):
                region = column + part * (N // 4) + tl.arange(0, N // 4)
                e = tl.load(own + region[None, :], mask=(region < side)[None, :], other=0.0).to(tl.float32)
                square += tl.sum(parts[part] * e, 1)
                e *= tl.load(region_norms + image * side + region, mask=region < side, other=0.0)[None, :]
                apart += tl.sum(e * e, 1)
        square = tl.where(square < CANCELLED * apart, LOST, square)
        tl.store(squares + image * capacity + rows, square, mask=rows < count)


@triton.jit(do_not_specialize=["chunk", "capacity"])
def direct_kernel(
    attended,
    packed_regions,
    packed_words,
    squares,
    dots,
    dense_starts,
    first_texts,
    chunk,
    stride,
    side,
    dim,
    capacity,
    M: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """The squares that are LOST, and dots = <c, t> with them, from the contexts, N of their components at a time.

    Such squares are kept below zero: a sign that dots holds. One program: M words with one image; it reads and writes
    their squares and dots only, and ends at once where none is lost.
    """
    base, count = rows_of_chunk(dense_starts, first_texts, chunk)
    if tl.program_id(0) * M < count:
        image = tl.program_id(1)
        rows, k = tl.program_id(0) * M + tl.arange(0, M), tl.arange(0, K)
        to = squares + image * capacity + rows
        lost = tl.load(to, mask=rows < count, other=0.0) == LOST
        if tl.max(lost.to(tl.int32), 0) > 0:
            own = attended + image * side + (tl.program_id(0) * M).to(tl.int64) * stride
            own += tl.arange(0, M)[:, None] * stride
            words = packed_words + (base + tl.program_id(0) * M).to(tl.int64) * dim
            square = tl.zeros((M,), tl.float32)
            product = tl.zeros((M,), tl.float32)
            for component in range(0, dim, N):
                d = component + tl.arange(0, N)
                context = tl.zeros((M, N), tl.float32)
                a = own + k[None, :]
                v = packed_regions + image.to(tl.int64) * side * dim + k[:, None] * dim + d[None, :]
                for first in range(0, side, K):
                    inside = k < side - first
                    left = tl.load(a, mask=inside[None, :], other=0.0)
                    right = tl.load(v, mask=inside[:, None] & (d < dim)[None, :], other=0.0)
                    context = dot(left, right, context, PRECISION, UPCAST)
                    a += K
                    v += K * dim
                square += tl.sum(context * context, 1)
                parts = quarters(context, M, N)
                for part in tl.static_range(4):
                    of_part = component + part * (N // 4) + tl.arange(0, N // 4)
                    inside = lost[:, None] & (of_part < dim)[None, :]
                    t = tl.load(words + tl.arange(0, M)[:, None] * dim + of_part[None, :], mask=inside, other=0.0)
                    product += tl.sum(parts[part] * t.to(tl.float32), 1)
            tl.store(to, -square, mask=lost)
            tl.store(dots + image * capacity + rows, product, mask=lost)


@triton.jit(do_not_specialize=["chunk", "capacity", "plane", "planes"])
def gram_product_kernel(
    attended,
    grams,
    region_norms,
    found,
    products,
    squares,
    centers,
    dense_starts,
    first_texts,
    chunk,
    stride,
    side,
    gram_side,
    capacity,
    plane,
    planes,
    M: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """For backward: h = G a (rows, stride), squares as above and centers = sum_j a_j h_j (images, capacity).

    One program: M words with one image, which it alone writes. Zeros follow the last word of h and of the attention to
    the end of its block, for sums over words: what is overwritten with them nobody uses.
    """
    count = rows_of_chunk(dense_starts, first_texts, chunk)[1]
    if tl.program_id(0) * M < count:
        image = tl.program_id(1)
        rows, k = tl.program_id(0) * M + tl.arange(0, M), tl.arange(0, K)
        real = rows < count
        at = image * capacity + rows
        of_block = image * side + (tl.program_id(0) * M).to(tl.int64) * stride
        of_rows = tl.arange(0, M)[:, None] * stride
        own = attended + of_block + of_rows
        gram = grams + image.to(tl.int64) * gram_side * gram_side
        normalizer = tl.zeros((M,), tl.float32)
        for block in range(0, planes):
            normalizer += tl.load(found + (planes + block) * plane + at, mask=real, other=1.0)
        # Words that are none get zeros.
        inverse = tl.where(real, 1.0 / normalizer, 0.0)
        center = tl.zeros((M,), tl.float32)
        apart = tl.zeros((M,), tl.float32)
        for column in range(0, side, N):
            acc = tl.zeros((M, N), tl.float32)
            a = own + k[None, :]
            g = gram + k[:, None] * gram_side + (column + tl.arange(0, N))[None, :]
            for first in range(0, side, K):
                left = tl.load(a, mask=real[:, None] & (k < side - first)[None, :], other=0.0)
                acc = dot(left, tl.load(g), acc, PRECISION, UPCAST)
                a += K
                g += K * gram_side
            parts = quarters(acc, M, N)
            for part in tl.static_range(4):
                region = column + part * (N // 4) + tl.arange(0, N // 4)
                stored = (region < side)[None, :]
                h = kept(parts[part] * inverse[:, None], products.dtype.element_ty, PRECISION)
                tl.store(products + of_block + of_rows + region[None, :], h, mask=stored)
                e = tl.load(own + region[None, :], mask=real[:, None] & stored, other=0.0).to(tl.float32)
                center += tl.sum(e * h.to(tl.float32), 1)
                e *= tl.load(region_norms + image * side + region, mask=region < side, other=0.0)[None, :]
                apart += tl.sum(e * e, 1)
        # Of the attention with its normalizer only once.
        square = tl.where(center < CANCELLED * inverse * apart, LOST, center * normalizer)
        center *= inverse
        tl.store(squares + at, square, mask=real)
        tl.store(centers + at, center, mask=real)
        # Only now: the loop above reads these rows, too.
        tl.debug_barrier()
        if count - tl.program_id(0) * M < M:
            zeros = tl.zeros((M, N), attended.dtype.element_ty)
            for column in range(0, side, N):
                region = column + tl.arange(0, N)
                tl.store(own + region[None, :], zeros, mask=(rows >= count)[:, None] & (region < side)[None, :])


@triton.jit(do_not_specialize=["chunk", "capacity", "plane", "planes"])
def direct_product_kernel(
    attended,
    packed_regions,
    found,
    products,
    squares,
    centers,
    dense_starts,
    first_texts,
    chunk,
    stride,
    side,
    dim,
    capacity,
    plane,
    planes,
    M: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """For backward: h = <c, v>, and its mean, of the words whose squares went the direct way.

    G a errs by eps |v| sqrt(q) there, and <c, v> by less: the error of c points anywhere. The contexts are computed
    once for each block of regions, since nothing of their size is kept. One program: M words with one image; it reads
    and writes their products and centers only, and ends at once where no word went the direct way.
    """
    count = rows_of_chunk(dense_starts, first_texts, chunk)[1]
    if tl.program_id(0) * M < count:
        image = tl.program_id(1)
        rows, k = tl.program_id(0) * M + tl.arange(0, M), tl.arange(0, K)
        at = image * capacity + rows
        direct = tl.load(squares + at, mask=rows < count, other=0.0) < 0.0
        if tl.max(direct.to(tl.int32), 0) > 0:
            normalizer = tl.zeros((M,), tl.float32)
            for block in range(0, planes):
                normalizer += tl.load(found + (planes + block) * plane + at, mask=direct, other=1.0)
            of_rows = image * side + (tl.program_id(0) * M).to(tl.int64) * stride + tl.arange(0, M)[:, None] * stride
            own_regions = packed_regions + image.to(tl.int64) * side * dim
            center = tl.zeros((M,), tl.float32)
            for column in range(0, side, N):
                region = column + tl.arange(0, N)
                h = tl.zeros((M, N), tl.float32)
                for component in range(0, dim, N):
                    d = component + tl.arange(0, N)
                    context = tl.zeros((M, N), tl.float32)
                    for first in range(0, side, K):
                        inside = first + k < side
                        e = tl.load(
                            attended + of_rows + (first + k)[None, :], mask=direct[:, None] & inside[None, :], other=0.0
                        )
                        v = tl.load(
                            own_regions + (first + k)[:, None] * dim + d[None, :],
                            mask=inside[:, None] & (d < dim)[None, :],
                            other=0.0,
                        )
                        context = dot(e, v, context, PRECISION, UPCAST)
                    context = kept(context / normalizer[:, None], packed_regions.dtype.element_ty, PRECISION)
                    v = tl.load(
                        own_regions + region[None, :] * dim + d[:, None],
                        mask=(region < side)[None, :] & (d < dim)[:, None],
                        other=0.0,
                    )
                    h = dot(context, v, h, PRECISION, UPCAST)
                stored = direct[:, None] & (region < side)[None, :]
                h = kept(h, products.dtype.element_ty, PRECISION)
                tl.store(products + of_rows + region[None, :], h, mask=stored)
                e = tl.load(attended + of_rows + region[None, :], mask=stored, other=0.0).to(tl.float32)
                center += tl.sum(e * h.to(tl.float32), 1)
            tl.store(centers + at, center / normalizer, mask=direct)


def grams(p: Problem, chunk: Chunk, out: Tensor, both: bool) -> None:
    """Fill out (images, gram_side, gram_side)."""
    blocks = p.blocks.gram
    count = p.gram_side // blocks.columns
    arguments = p.product_arguments(blocks)
    del arguments["M"]
    gram_kernel[(count, count, chunk.images)](
        packed_regions=chunk.packed_regions,
        grams=out,
        side=p.side,
        gram_side=p.gram_side,
        dim=p.dim,
        BOTH=both,
        **arguments,
    )


def context_squares(p: Problem, chunk: Chunk, attended: Tensor, grams: Tensor | None, lengths: Tensor) -> None:
    """Fill squares and dots, lengths (2, images, capacity): all the direct way where there are no `grams`."""
    blocks = p.blocks.square
    if grams is None:
        lengths[0].fill_(LOST.value)
    else:
        square_kernel[_grid(p, chunk, blocks)](
            grams=grams,
            region_norms=chunk.region_norms[0],
            gram_side=p.gram_side,
            **_arguments(p, chunk, attended, lengths[0], blocks),
        )
    _direct(p, chunk, attended, lengths)


def gram_products(
    p: Problem, chunk: Chunk, attended: Tensor, grams: Tensor, found: Tensor, products: Tensor, lengths: Tensor
) -> None:
    """Fill products (rows, columns) with G a, and lengths (3, images, capacity) with squares, dots, centers."""
    blocks = p.blocks.gram
    gram_product_kernel[_grid(p, chunk, blocks)](
        grams=grams,
        region_norms=chunk.region_norms[0],
        gram_side=p.gram_side,
        found=found,
        products=products,
        centers=lengths[2],
        plane=found.stride(1),
        planes=found.shape[1],
        **_arguments(p, chunk, attended, lengths[0], blocks),
    )
    _direct(p, chunk, attended, lengths)
    # Few columns, for there are two blocks of results at once.
    blocks = p.blocks.square._replace(columns=32)
    direct_product_kernel[_grid(p, chunk, blocks)](
        packed_regions=chunk.packed_regions,
        found=found,
        products=products,
        centers=lengths[2],
        dim=p.dim,
        plane=found.stride(1),
        planes=found.shape[1],
        **_arguments(p, chunk, attended, lengths[0], blocks),
    )


def _direct(p: Problem, chunk: Chunk, attended: Tensor, lengths: Tensor) -> None:
    # Half the columns, for the words take registers beside the contexts.
    blocks = p.blocks.square._replace(columns=p.blocks.square.columns // 2)
    direct_kernel[_grid(p, chunk, blocks)](
        packed_regions=chunk.packed_regions,
        packed_words=p.packed_words,
        dots=lengths[1],
        dim=p.dim,
        **_arguments(p, chunk, attended, lengths[0], blocks),
    )


def _grid(p: Problem, chunk: Chunk, blocks: Blocks) -> tuple[int, int]:
    return triton.cdiv(p.plan.capacity, blocks.rows), chunk.images


def _arguments(p: Problem, chunk: Chunk, attended: Tensor, squares: Tensor, blocks: Blocks) -> dict[str, Any]:
    return {
        "attended": attended,
        "squares": squares,
        "dense_starts": p.plan.dense_starts,
        "first_texts": p.plan.first_texts,
        "chunk": chunk.number,
        "stride": attended.stride(0),
        "side": p.side,
        "capacity": p.plan.capacity,
        **p.product_arguments(blocks),
    }
