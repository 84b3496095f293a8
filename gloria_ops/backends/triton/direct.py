"""Words whose contexts cancel: what their G a and |c| would lose is taken from the contexts themselves.

The error of a^T G a is that of G, about eps * q with q = sum_j a_j^2 |v_j|^2, whatever cancels in c. That of c itself
is eps * sqrt(q), so that |c|^2 errs by 2 eps |c| sqrt(q). The first is the greater where |c|^2 < q / 4: such words go
the direct way, each by itself. Where c cancels, d = sum_j a_j s_j cancels too, so that <c, t> takes its place.

Contexts are computed for each block of what needs them, since nothing of their size is kept; where no word goes this
way the kernels end at once.
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
# Coefficients of words that are looked at together for one that goes the direct way.
LOOKED_AT = 1024


@triton.jit
def contexts_of(
    attended, regions, lost, d, stride, side, dim,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Components d (N,) of sum_j e_j v_j (M, N) of the words that are `lost`; others get zeros."""
    k = tl.arange(0, K)
    contexts = tl.zeros((M, N), tl.float32)
    e = attended + tl.arange(0, M)[:, None] * stride + k[None, :]
    v = regions + k[:, None] * dim + d[None, :]
    for first in range(0, side, K):
        inside = k < side - first
        left = tl.load(e, mask=lost[:, None] & inside[None, :], other=0.0)
        right = tl.load(v, mask=inside[:, None] & (d < dim)[None, :], other=0.0)
        contexts = dot(left, right, contexts, PRECISION, UPCAST)
        e += K
        v += K * dim
    return contexts


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
    their squares and dots only.
    """
    base, count = rows_of_chunk(dense_starts, first_texts, chunk)
    first_row = tl.program_id(0) * M
    if first_row < count:
        image = tl.program_id(1)
        rows = tl.arange(0, M)
        to = squares + image * capacity + first_row + rows
        lost = tl.load(to, mask=rows < count - first_row, other=0.0) == LOST
        if tl.max(lost.to(tl.int32), 0) > 0:
            own = attended + image * side + first_row.to(tl.int64) * stride
            own_regions = packed_regions + image.to(tl.int64) * side * dim
            words = packed_words + (base + first_row).to(tl.int64) * dim
            square = tl.zeros((M,), tl.float32)
            product = tl.zeros((M,), tl.float32)
            for component in range(0, dim, N):
                d = component + tl.arange(0, N)
                context = contexts_of(own, own_regions, lost, d, stride, side, dim, M, N, K, PRECISION, UPCAST)
                square += tl.sum(context * context, 1)
                parts = quarters(context, M, N)
                for part in tl.static_range(4):
                    of_part = component + part * (N // 4) + tl.arange(0, N // 4)
                    inside = lost[:, None] & (of_part < dim)[None, :]
                    t = tl.load(words + rows[:, None] * dim + of_part[None, :], mask=inside, other=0.0)
                    product += tl.sum(parts[part] * t.to(tl.float32), 1)
            tl.store(to, -square, mask=lost)
            tl.store(dots + image * capacity + first_row + rows, product, mask=lost)


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

    G a errs by eps |v| sqrt(q) there, and <c, v> by less: the error of c points anywhere. One program: M words with
    one image; it reads and writes their products and centers only.
    """
    count = rows_of_chunk(dense_starts, first_texts, chunk)[1]
    first_row = tl.program_id(0) * M
    if first_row < count:
        image = tl.program_id(1)
        rows = tl.arange(0, M)
        at = image * capacity + first_row + rows
        lost = tl.load(squares + at, mask=rows < count - first_row, other=0.0) < 0.0
        if tl.max(lost.to(tl.int32), 0) > 0:
            normalizer = tl.zeros((M,), tl.float32)
            for block in range(0, planes):
                normalizer += tl.load(found + (planes + block) * plane + at, mask=lost, other=1.0)
            of_block = image * side + first_row.to(tl.int64) * stride
            of_rows = of_block + rows[:, None] * stride
            own_regions = packed_regions + image.to(tl.int64) * side * dim
            center = tl.zeros((M,), tl.float32)
            for column in range(0, side, N):
                region = column + tl.arange(0, N)
                h = tl.zeros((M, N), tl.float32)
                for component in range(0, dim, N):
                    d = component + tl.arange(0, N)
                    context = contexts_of(
                        attended + of_block, own_regions, lost, d, stride, side, dim, M, N, K, PRECISION, UPCAST
                    )
                    context = kept(context / normalizer[:, None], packed_regions.dtype.element_ty, PRECISION)
                    v = tl.load(
                        own_regions + region[None, :] * dim + d[:, None],
                        mask=(region < side)[None, :] & (d < dim)[:, None],
                        other=0.0,
                    )
                    h = dot(context, v, h, PRECISION, UPCAST)
                stored = lost[:, None] & (region < side)[None, :]
                h = kept(h, products.dtype.element_ty, PRECISION)
                tl.store(products + of_rows + region[None, :], h, mask=stored)
                e = tl.load(attended + of_rows + region[None, :], mask=stored, other=0.0).to(tl.float32)
                center += tl.sum(e * h.to(tl.float32), 1)
            tl.store(centers + at, center / normalizer, mask=lost)


@triton.jit(do_not_specialize=["chunk", "capacity"])
def direct_gradient_kernel(
    attended,
    packed_regions,
    weights,
    sums,
    dense_starts,
    first_texts,
    chunk,
    stride,
    side,
    dim,
    capacity,
    LOOKED_AT: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Sums (columns, D) += (w e)^T c of the words whose squares went the direct way: their share of gG V.

    What cancels in c cancels once more in gG V. weights: w (images, capacity), 0 of the other words. One program: M
    regions of one image, N components; it reads and writes their sums only, M words after M words.
    """
    count = rows_of_chunk(dense_starts, first_texts, chunk)[1]
    image = tl.program_id(2)
    weights += image * capacity
    some = 0
    for first in range(0, count, LOOKED_AT):
        word = first + tl.arange(0, LOOKED_AT)
        lost = tl.load(weights + word, mask=word < count, other=0.0) != 0.0
        some = tl.maximum(some, tl.max(lost.to(tl.int32), 0))
    if some > 0:
        region, d = tl.program_id(1) * M + tl.arange(0, M), tl.program_id(0) * N + tl.arange(0, N)
        own_regions = packed_regions + image.to(tl.int64) * side * dim
        acc = tl.zeros((M, N), tl.float32)
        for first in range(0, count, M):
            word = tl.arange(0, M)
            weight = tl.load(weights + first + word, mask=word < count - first, other=0.0)
            lost = weight != 0.0
            if tl.max(lost.to(tl.int32), 0) > 0:
                own = attended + image * side + tl.cast(first, tl.int64) * stride
                context = contexts_of(own, own_regions, lost, d, stride, side, dim, M, N, K, PRECISION, UPCAST)
                e = tl.load(
                    own + word[None, :] * stride + region[:, None],
                    mask=lost[None, :] & (region < side)[:, None],
                    other=0.0,
                )
                scratch = packed_regions.dtype.element_ty
                weighted = kept(weight[None, :] * e.to(tl.float32), scratch, PRECISION)
                acc = dot(weighted, kept(context, scratch, PRECISION), acc, PRECISION, UPCAST)
        inside = (region < side)[:, None] & (d < dim)[None, :]
        to = sums + (image * side + region).to(tl.int64)[:, None] * dim + d[None, :]
        tl.store(to, tl.load(to, mask=inside, other=0.0) + acc, mask=inside)


def direct_contexts(p: Problem, chunk: Chunk, attended: Tensor, lengths: Tensor) -> None:
    """Fill the squares that are LOST, and their dots, in lengths (2 or more, images, capacity)."""
    # Half the columns, for the words take registers beside the contexts.
    blocks = p.blocks.square._replace(columns=p.blocks.square.columns // 2)
    direct_kernel[_by_words(p, chunk, blocks)](
        packed_words=p.packed_words, squares=lengths[0], dots=lengths[1], **_arguments(p, chunk, attended, blocks)
    )


def direct_products(
    p: Problem, chunk: Chunk, attended: Tensor, found: Tensor, products: Tensor, lengths: Tensor
) -> None:
    """Overwrite products (rows, columns) and centers, lengths[2], of these words."""
    blocks = _narrow(p)
    direct_product_kernel[_by_words(p, chunk, blocks)](
        found=found,
        products=products,
        squares=lengths[0],
        centers=lengths[2],
        plane=found.stride(1),
        planes=found.shape[1],
        **_arguments(p, chunk, attended, blocks),
    )


def direct_gradients(p: Problem, chunk: Chunk, attended: Tensor, weights: Tensor, sums: Tensor) -> None:
    """Add to sums (columns, D) what flows through the lengths of these words' contexts."""
    # Few rows, too, for the words' attention is weighted in registers.
    blocks = _narrow(p)
    blocks = blocks._replace(rows=blocks.rows // 2)
    direct_gradient_kernel[triton.cdiv(p.dim, blocks.columns), triton.cdiv(p.side, blocks.rows), chunk.images](
        weights=weights, sums=sums, LOOKED_AT=LOOKED_AT, **_arguments(p, chunk, attended, blocks)
    )


def _narrow(p: Problem) -> Blocks:
    # Few columns, for there are two blocks of results at once.
    return p.blocks.square._replace(columns=32)


def _by_words(p: Problem, chunk: Chunk, blocks: Blocks) -> tuple[int, int]:
    return triton.cdiv(p.plan.capacity, blocks.rows), chunk.images


def _arguments(p: Problem, chunk: Chunk, attended: Tensor, blocks: Blocks) -> dict[str, Any]:
    return {
        "attended": attended,
        "packed_regions": chunk.packed_regions,
        "dense_starts": p.plan.dense_starts,
        "first_texts": p.plan.first_texts,
        "chunk": chunk.number,
        "stride": attended.stride(0),
        "side": p.side,
        "dim": p.dim,
        "capacity": p.plan.capacity,
        **p.product_arguments(blocks),
    }
