"""The lengths of the contexts: |c|^2 = a^T G a with the Gram matrix G = V V^T of an image, and for backward G a."""

# mypy: disable-error-code="no-untyped-def"
# Triton reads the annotations of kernels, and knows constexpr only.

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from gloria_ops.backends.triton.block_sizes import Blocks
from gloria_ops.backends.triton.device import dot, kept, quarters, rows_of_chunk
from gloria_ops.backends.triton.direct import CANCELLED, LOST, direct_contexts, direct_products
from gloria_ops.backends.triton.problem import Chunk, Problem


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
        inverse = 1.0 / normalizer
        center = tl.zeros((M,), tl.float32)
        apart = tl.zeros((M,), tl.float32)
        for column in range(0, side, N):
            acc = tl.zeros((M, N), tl.float32)
            a = own + k[None, :]
            g = gram + k[:, None] * gram_side + (column + tl.arange(0, N))[None, :]
            for first in range(0, side, K):
                left = tl.load(a, mask=(k < side - first)[None, :], other=0.0)
                acc = dot(left, tl.load(g), acc, PRECISION, UPCAST)
                a += K
                g += K * gram_side
            parts = quarters(acc, M, N)
            for part in tl.static_range(4):
                region = column + part * (N // 4) + tl.arange(0, N // 4)
                stored = (region < side)[None, :]
                h = kept(parts[part] * inverse[:, None], products.dtype.element_ty, PRECISION)
                tl.store(products + of_block + of_rows + region[None, :], h, mask=stored)
                e = tl.load(own + region[None, :], mask=stored, other=0.0).to(tl.float32)
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
                beyond = (rows >= count)[:, None] & (region < side)[None, :]
                tl.store(own + region[None, :], zeros, mask=beyond)
                tl.store(products + of_block + of_rows + region[None, :], zeros, mask=beyond)


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
    direct_contexts(p, chunk, attended, lengths)


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
    direct_contexts(p, chunk, attended, lengths)
    direct_products(p, chunk, attended, found, products, lengths)


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
