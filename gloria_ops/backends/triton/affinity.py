"""The affinities S = T V^T of a chunk of texts with a chunk of images: one plain product, rounded as it is stored."""

# mypy: disable-error-code="no-untyped-def"
# Triton reads the annotations of kernels, and knows constexpr only.

import triton
import triton.language as tl
from torch import Tensor

from gloria_ops.backends.triton import pack
from gloria_ops.backends.triton.device import block_of, quarters, rows_of_chunk
from gloria_ops.backends.triton.plain import block_of_product, operands
from gloria_ops.backends.triton.problem import Chunk, Problem


@triton.jit
def store_affinities(
    acc, affinities, word_inverses, region_inverses, row, column, base, count, columns, stride,
    NORMED: tl.constexpr, STEP: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """Store a block (M, N) from `row` and `column` on, a quarter after the other."""
    rows = row + tl.arange(0, M)
    stored = rows < tl.cdiv(count, STEP) * STEP
    of_words = tl.load(word_inverses + base + rows, mask=rows < count, other=0.0)
    to = affinities + tl.cast(row, tl.int64) * stride + tl.arange(0, M)[:, None] * stride
    parts = quarters(acc, M, N)
    for nth in tl.static_range(4):
        others = column + nth * (N // 4) + tl.arange(0, N // 4)
        inside = others < columns
        if NORMED:
            of_regions = tl.load(region_inverses + others, mask=inside, other=0.0)
            part = parts[nth] * (of_words[:, None] * of_regions[None, :])
        else:
            part = tl.where((rows < count)[:, None], parts[nth], 0.0)
        tl.store(to + others[None, :], part.to(affinities.dtype.element_ty), mask=stored[:, None] & inside[None, :])


@triton.jit(do_not_specialize=["chunk"])
def affinity_kernel(
    left,
    tail,
    right,
    word_inverses,
    region_inverses,
    affinities,
    dense_starts,
    first_texts,
    chunk,
    columns,
    stride,
    dim,
    DESCRIBED: tl.constexpr,
    NORMED: tl.constexpr,
    STEP: tl.constexpr,
    M: tl.constexpr,
    TAIL: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Affinities (rows, stride): words of the chunk x regions of its images. One program: some blocks of M + TAIL words
    and N regions; with descriptors, the operands of a block are fetched while the one before is stored.

    left, tail, right: packed words and regions. NORMED: s / (|t| |v|), so that float16 holds it whatever the norms
    are. Zeros follow the last word in whole steps of STEP, for sums over words. A program writes its own blocks only.
    """
    base, count = rows_of_chunk(dense_starts, first_texts, chunk)
    row_blocks, column_blocks = tl.cdiv(count, M + TAIL), tl.cdiv(columns, N)
    tl.assume(dim > 0)
    for block in tl.range(tl.program_id(0), row_blocks * column_blocks, tl.num_programs(0), flatten=DESCRIBED):
        row, column = block_of(tl.cast(block, tl.int32), row_blocks, column_blocks)
        row *= M + TAIL
        column *= N
        upper, lower = block_of_product(
            left, tail, right, base + row, column, 0, dim, 0, base + count, columns, dim, dim,
            False, False, DESCRIBED, M, TAIL, N, K, PRECISION, UPCAST,
        )  # fmt: skip
        store_affinities(
            upper, affinities, word_inverses, region_inverses, row, column, base, count, columns, stride,
            NORMED, STEP, M, N,
        )  # fmt: skip
        if TAIL:
            store_affinities(
                lower, affinities, word_inverses, region_inverses, row + M, column, base, count, columns, stride,
                NORMED, STEP, TAIL, N,
            )  # fmt: skip


def affinities(p: Problem, chunk: Chunk, out: Tensor) -> None:
    """Fill out (rows, columns)."""
    blocks, columns = p.blocks.product, p.columns(chunk.images)
    count = triton.cdiv(p.plan.capacity, blocks.rows) * triton.cdiv(columns, blocks.columns)
    affinity_kernel[(min(count, p.processors) if blocks.described else count,)](
        **operands(blocks, p.packed_words, chunk.packed_regions),
        word_inverses=p.word_norms[1],
        region_inverses=chunk.region_norms[1],
        affinities=out,
        dense_starts=p.plan.dense_starts,
        first_texts=p.plan.first_texts,
        chunk=chunk.number,
        columns=columns,
        dim=p.dim,
        stride=out.stride(0),
        NORMED=p.normed,
        STEP=pack.STEP,
        **p.product_arguments(blocks),
    )
