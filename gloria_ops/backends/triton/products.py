"""The products of backward: gs with the regions and the words, and the gradient that flows through the Gram matrix.

Sums over images and over chunks of texts run in their order, and every address has one writer in each launch, so that
the same inputs give the same bits.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton reads the annotations of kernels, and knows constexpr only.

import torch
import triton
import triton.language as tl
from torch import Tensor

from gloria_ops.backends.triton.device import block_of, dot, kept, quarters, rows_of_chunk
from gloria_ops.backends.triton.plain import block_of_product, operands
from gloria_ops.backends.triton.problem import Chunk, Problem

# Parts of the sum over words that are computed at once for the Gram matrices, whose blocks are few, and added up later.
# The same for every batch, so that the bits of an image's gradient are, too.
GRAM_PARTS = 3


@triton.jit
def add_to_words(
    acc, packed_words, coefficients, origins, grad_words, rest, row, column, base, count, images, capacity, width, dim,
    COSINE: tl.constexpr, SPLIT: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """Add a block (M, N) from `row` and `column` on to the gradients of words, a quarter after the other."""
    rows = row + tl.arange(0, M)
    real = rows < count
    along = tl.zeros((M,), tl.float32)
    if COSINE:
        for image in range(0, images):
            along += tl.load(coefficients + (4 * images + image) * capacity + rows, mask=real, other=0.0)
    origin = tl.load(origins + base + rows, mask=real, other=0)[:, None] * width
    packed = tl.cast(base + row, tl.int64) * dim
    parts = quarters(acc, M, N)
    for nth in tl.static_range(4):
        part = parts[nth]
        component = column + nth * (N // 4) + tl.arange(0, N // 4)
        inside = real[:, None] & (component < width)[None, :]
        at = tl.arange(0, M)[:, None] * dim + component[None, :]
        if COSINE:
            part += along[:, None] * tl.load(packed_words + packed + at, mask=inside, other=0.0).to(tl.float32)
        to = grad_words + origin + component[None, :]
        part += tl.load(to, mask=inside, other=0.0).to(tl.float32)
        if SPLIT:
            part += tl.load(rest + packed + at, mask=inside, other=0.0).to(tl.float32)
        rounded = part.to(grad_words.dtype.element_ty)
        tl.store(to, rounded, mask=inside)
        if SPLIT:
            tl.store(rest + packed + at, (part - rounded.to(tl.float32)).to(rest.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["chunk", "images", "capacity"])
def words_kernel(
    left,
    tail,
    right,
    packed_words,
    coefficients,
    origins,
    grad_words,
    rest,
    dense_starts,
    first_texts,
    chunk,
    images,
    columns,
    stride,
    capacity,
    width,
    dim,
    COSINE: tl.constexpr,
    SPLIT: tl.constexpr,
    DESCRIBED: tl.constexpr,
    M: tl.constexpr,
    TAIL: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """grad_words (L_t, D) += the share of these images. One program: M + TAIL words of the chunk, N of D components.

    left, tail, right: gs and the packed regions. SPLIT: what rounding leaves of the sum is kept in `rest` (L_t, packed
    D), by packed row. Each program reads and writes its own words and components of both, each in one thread.
    """
    base, count = rows_of_chunk(dense_starts, first_texts, chunk)
    row_blocks, column_blocks = tl.cdiv(count, M + TAIL), tl.cdiv(dim, N)
    if tl.program_id(0) < row_blocks * column_blocks:
        row, column = block_of(tl.program_id(0), row_blocks, column_blocks)
        row *= M + TAIL
        column *= N
        upper, lower = block_of_product(
            left, tail, right, row, column, 0, columns, 0, count, dim, stride, dim,
            False, True, DESCRIBED, M, TAIL, N, K, PRECISION, UPCAST,
        )  # fmt: skip
        if TAIL:
            add_to_words(
                lower, packed_words, coefficients, origins, grad_words, rest, row + M, column, base, count, images,
                capacity, width, dim, COSINE, SPLIT, TAIL, N,
            )  # fmt: skip
        add_to_words(
            upper, packed_words, coefficients, origins, grad_words, rest, row, column, base, count, images, capacity,
            width, dim, COSINE, SPLIT, M, N,
        )  # fmt: skip


@triton.jit
def words_of_part(count, K: tl.constexpr):
    """[first, end) of the words of a chunk that one part of a sum takes, in whole steps: zeros follow the last word."""
    steps = tl.cdiv(count, K)
    of_part = tl.cdiv(steps, tl.num_programs(2))
    first = tl.program_id(2) * of_part
    return first * K, tl.minimum(steps, first + of_part) * K


@triton.jit
def add_to_regions(acc, sums, row, column, columns, dim, chunk, M: tl.constexpr, N: tl.constexpr):
    """Add a block (M, N) from `row` and `column` on to the sums of a part, or set them with the first chunk."""
    rows = row + tl.arange(0, M)
    own = sums + tl.cast(row, tl.int64) * dim + tl.arange(0, M)[:, None] * dim
    parts = quarters(acc, M, N)
    for nth in tl.static_range(4):
        part = parts[nth]
        component = column + nth * (N // 4) + tl.arange(0, N // 4)
        inside = (rows < columns)[:, None] & (component < dim)[None, :]
        if chunk > 0:
            part += tl.load(own + component[None, :], mask=inside, other=0.0)
        tl.store(own + component[None, :], part, mask=inside)


@triton.jit(do_not_specialize=["chunk"])
def regions_kernel(
    left,
    tail,
    right,
    sums,
    dense_starts,
    first_texts,
    chunk,
    columns,
    stride,
    dim,
    DESCRIBED: tl.constexpr,
    M: tl.constexpr,
    TAIL: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Sums (columns, D) float32 += gs^T T of a chunk of texts. One program: M + TAIL regions, N components.

    left, tail, right: gs and the packed words. A program writes its own block only.
    """
    base, count = rows_of_chunk(dense_starts, first_texts, chunk)
    row, column = block_of(tl.program_id(0), tl.cdiv(columns, M + TAIL), tl.cdiv(dim, N))
    row *= M + TAIL
    column *= N
    # Zeros follow the last word.
    upper, lower = block_of_product(
        left, tail, right, row, column, 0, tl.cdiv(count, K) * K, base, columns, dim, stride, dim,
        True, True, DESCRIBED, M, TAIL, N, K, PRECISION, UPCAST,
    )  # fmt: skip
    add_to_regions(upper, sums, row, column, columns, dim, chunk, M, N)
    if TAIL:
        add_to_regions(lower, sums, row + M, column, columns, dim, chunk, TAIL, N)


@triton.jit(do_not_specialize=["chunk", "images", "capacity"])
def gram_gradient_kernel(
    attended,
    weights,
    grad_grams,
    dense_starts,
    first_texts,
    chunk,
    images,
    stride,
    side,
    gram_side,
    capacity,
    N: tl.constexpr,
    K: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """grad_grams (parts, images, gram_side, gram_side) float32 += 2 gG of a chunk of texts, both quarters of it.

    2 gG = sum_i w_i e_i e_i^T over the words, weights w (images, capacity). One program: an N x N block of the upper
    half, of one image, a part of the words. It reads and writes that block, and writes the one that mirrors it, which
    is another but on the diagonal, where it is not written.
    """
    count = rows_of_chunk(dense_starts, first_texts, chunk)[1]
    blocks = tl.cdiv(side, N)
    image, place = tl.program_id(1), tl.program_id(0)
    row, column = place // blocks, place % blocks
    if row <= column:
        rows, others = row * N + tl.arange(0, N), column * N + tl.arange(0, N)
        first_word, end = words_of_part(count, K)
        k = tl.arange(0, K)
        at = image * side + first_word.to(tl.int64) * stride + k[None, :] * stride
        left = attended + at + rows[:, None]
        right = attended + image * side + first_word.to(tl.int64) * stride + k[:, None] * stride + others[None, :]
        weights += image * capacity
        acc = tl.zeros((N, N), tl.float32)
        for word in range(first_word, end, K):
            weight = tl.load(weights + word + k, mask=word + k < count, other=0.0)
            e = tl.load(left, mask=(rows < side)[:, None], other=0.0)
            weighted = kept(weight[None, :] * e.to(tl.float32), e.dtype, PRECISION)
            acc = dot(weighted, tl.load(right, mask=(others < side)[None, :], other=0.0), acc, PRECISION, UPCAST)
            left += K * stride
            right += K * stride
        to = grad_grams + (tl.program_id(2) * images + image).to(tl.int64) * gram_side * gram_side
        parts = quarters(acc, N, N)
        for nth in tl.static_range(4):
            part = parts[nth]
            region = column * N + nth * (N // 4) + tl.arange(0, N // 4)
            own = to + rows[:, None] * gram_side + region[None, :]
            if chunk > 0:
                part += tl.load(own)
            tl.store(own, part)
            if row != column:
                tl.store(to + region[:, None] * gram_side + rows[None, :], tl.trans(part))


@triton.jit(do_not_specialize=["first_image", "images", "longest", "gram_parts"])
def finish_kernel(
    sums,
    grad_grams,
    packed_regions,
    region_starts,
    region_lengths,
    grad_regions,
    first_image,
    images,
    longest,
    gram_parts,
    side,
    gram_side,
    width,
    dim,
    COSINE: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """grad_regions (L_v, D) = gs^T T + 2 gG V, in their own dtype. One program: M regions of an image, N components."""
    image = tl.program_id(2)
    start = tl.load(region_starts + first_image + image)
    length = tl.minimum(tl.load(region_lengths + first_image + image), longest).to(tl.int32)
    if tl.program_id(1) * M < length:
        rows, d = tl.program_id(1) * M + tl.arange(0, M), tl.program_id(0) * N + tl.arange(0, N)
        inside = (rows < length)[:, None] & (d < dim)[None, :]
        acc = tl.zeros((M, N), tl.float32)
        if COSINE:
            packed_regions += image.to(tl.int64) * side * dim
            for first in range(0, side, K):
                k = first + tl.arange(0, K)
                within = (rows < side)[:, None] & (k < side)[None, :]
                g = tl.zeros((M, K), tl.float32)
                for part in range(0, gram_parts):
                    of_image = (part * images + image).to(tl.int64) * gram_side * gram_side
                    g += tl.load(grad_grams + of_image + rows[:, None] * gram_side + k[None, :], mask=within, other=0.0)
                v = tl.load(
                    packed_regions + k[:, None] * dim + d[None, :],
                    mask=(k < side)[:, None] & (d < dim)[None, :],
                    other=0.0,
                )
                acc = dot(kept(g, v.dtype, PRECISION), v, acc, PRECISION, UPCAST)
        own = sums + (image * side + rows).to(tl.int64)[:, None] * dim
        acc += tl.load(own + d[None, :], mask=inside, other=0.0)
        to = grad_regions + (start + rows)[:, None] * width + d[None, :]
        tl.store(to, acc.to(grad_regions.dtype.element_ty), mask=inside & (d < width)[None, :])


def sums_of_backward(p: Problem, bytes_of_image: int) -> tuple[int, Tensor, Tensor, Tensor | None]:
    """(images of a chunk, gradients of the rows of both sides as zeros, rest of the words' where they have one)."""
    at_once = p.images_at_once(bytes_of_image)
    if p.plan.chunks > 1:  # a small batch is one chunk, for its launches take as long as its kernels
        at_once = min(at_once, p.blocks.chunk_images)
    grad_regions, grad_words = torch.zeros_like(p.images.rows), torch.zeros_like(p.texts.rows)
    split = at_once < p.images.starts.numel() and grad_words.dtype != torch.float32
    rest = p.empty(*p.packed_words.shape, dtype=torch.bfloat16).zero_() if split else None
    return at_once, grad_regions, grad_words, rest


def word_gradients(
    p: Problem, chunk: Chunk, gradient: Tensor, coefficients: Tensor, grad_words: Tensor, rest: Tensor | None
) -> None:
    """Add to grad_words, and to their rest where they have one."""
    blocks = p.blocks.product
    count = triton.cdiv(p.plan.capacity, blocks.rows) * triton.cdiv(p.dim, blocks.columns)
    words_kernel[(count,)](
        **operands(blocks, gradient, chunk.packed_regions, right_by_k=True),
        packed_words=p.packed_words,
        coefficients=coefficients,
        origins=p.origins,
        grad_words=grad_words,
        rest=grad_words if rest is None else rest,
        dense_starts=p.plan.dense_starts,
        first_texts=p.plan.first_texts,
        chunk=chunk.number,
        images=chunk.images,
        columns=p.columns(chunk.images),
        stride=gradient.stride(0),
        capacity=p.plan.capacity,
        width=grad_words.shape[1],
        dim=p.dim,
        COSINE=p.cosine,
        SPLIT=rest is not None,
        **p.product_arguments(blocks),
    )


def region_sums(p: Problem, chunk: Chunk, gradient: Tensor, sums: Tensor) -> None:
    """Add gs^T T to sums (columns, D), or set them with the first chunk of texts."""
    blocks, columns = p.blocks.regions, p.columns(chunk.images)
    regions_kernel[(triton.cdiv(columns, blocks.rows) * triton.cdiv(p.dim, blocks.columns),)](
        **operands(blocks, gradient, p.packed_words, left_by_k=True, right_by_k=True),
        sums=sums,
        dense_starts=p.plan.dense_starts,
        first_texts=p.plan.first_texts,
        chunk=chunk.number,
        columns=columns,
        stride=gradient.stride(0),
        dim=p.dim,
        **p.product_arguments(blocks),
    )


def gram_gradients(p: Problem, chunk: Chunk, attended: Tensor, weights: Tensor, grad_grams: Tensor) -> None:
    """Add to grad_grams (parts, images, gram_side, gram_side), or set them with the first chunk of texts."""
    arguments = p.product_arguments(p.blocks.gram)
    del arguments["M"]
    blocks = p.gram_side // p.blocks.gram.columns
    gram_gradient_kernel[(blocks * blocks, chunk.images, grad_grams.shape[0])](
        attended=attended,
        weights=weights,
        grad_grams=grad_grams,
        dense_starts=p.plan.dense_starts,
        first_texts=p.plan.first_texts,
        chunk=chunk.number,
        images=chunk.images,
        stride=attended.stride(0),
        side=p.side,
        gram_side=p.gram_side,
        capacity=p.plan.capacity,
        **arguments,
    )


def finish(p: Problem, chunk: Chunk, sums: Tensor, grad_grams: Tensor, grad_regions: Tensor) -> None:
    """Fill the rows of these images in grad_regions, from their sums and the Gram matrices' gradients."""
    # Few rows, for the Gram matrices' gradients are added up in registers.
    blocks = p.blocks.gram._replace(rows=64)
    grid = triton.cdiv(p.dim, blocks.columns), triton.cdiv(p.side, blocks.rows), chunk.images
    finish_kernel[grid](
        sums=sums,
        grad_grams=grad_grams,
        packed_regions=chunk.packed_regions,
        region_starts=p.images.starts,
        region_lengths=p.images.lengths,
        grad_regions=grad_regions,
        first_image=chunk.first_image,
        images=chunk.images,
        longest=p.longest,
        gram_parts=grad_grams.shape[0],
        side=p.side,
        gram_side=p.gram_side,
        width=grad_regions.shape[1],
        dim=p.dim,
        COSINE=p.cosine,
        **p.product_arguments(blocks),
    )
