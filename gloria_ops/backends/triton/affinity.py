"""The affinities S = T V^T of a chunk of texts with a chunk of images: one plain product, rounded as it is stored."""

# mypy: disable-error-code="no-untyped-def"
# Triton reads the annotations of kernels, and knows constexpr only.

import triton
import triton.language as tl
from torch import Tensor

from gloria_ops.backends.triton import pack
from gloria_ops.backends.triton.device import block_of, dot, rows_of_chunk
from gloria_ops.backends.triton.problem import Chunk, Problem


@triton.jit(do_not_specialize=["chunk"])
def affinity_kernel(
    packed_words,
    packed_regions,
    word_inverses,
    region_inverses,
    affinities,
    dense_starts,
    first_texts,
    chunk,
    columns,
    stride,
    dim,
    NORMED: tl.constexpr,
    STEP: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Affinities (rows, stride): words of the chunk x regions of its images. One program: an M x N block.

    NORMED: s / (|t| |v|), so that float16 holds it whatever the norms are. Zeros follow the last word in whole steps of
    STEP, for sums over words. Reads packed rows, writes its own block.
    """
    base, count = rows_of_chunk(dense_starts, first_texts, chunk)
    row_blocks, column_blocks = tl.cdiv(count, M), tl.cdiv(columns, N)
    if tl.program_id(0) < row_blocks * column_blocks:
        row, column = block_of(tl.program_id(0), row_blocks, column_blocks)
        rows, others, k = row * M + tl.arange(0, M), column * N + tl.arange(0, N), tl.arange(0, K)
        # Rows beyond the last are read as the last, and not stored: a mask would cost registers in the loop.
        packed_words += base.to(tl.int64) * dim
        t = packed_words + tl.minimum(rows, count - 1)[:, None] * dim + k[None, :]
        v = packed_regions + tl.minimum(others, columns - 1)[None, :] * dim + k[:, None]
        acc = tl.zeros((M, N), tl.float32)
        for _ in range(0, dim, K):
            acc = dot(tl.load(t), tl.load(v), acc, PRECISION, UPCAST)
            t += K
            v += K
        if NORMED:
            of_words = tl.load(word_inverses + base + rows, mask=rows < count, other=0.0)
            of_regions = tl.load(region_inverses + others, mask=others < columns, other=0.0)
            acc *= of_words[:, None] * of_regions[None, :]
        else:
            acc = tl.where((rows < count)[:, None], acc, 0.0)
        stored = rows < tl.cdiv(count, STEP) * STEP
        to = affinities + (row * M).to(tl.int64) * stride + tl.arange(0, M)[:, None] * stride + others[None, :]
        tl.store(to, acc.to(affinities.dtype.element_ty), mask=stored[:, None] & (others < columns)[None, :])


def affinities(p: Problem, chunk: Chunk, out: Tensor) -> None:
    """Fill out (rows, columns)."""
    blocks, columns = p.blocks.product, p.columns(chunk.images)
    count = triton.cdiv(p.plan.capacity, blocks.rows) * triton.cdiv(columns, blocks.columns)
    affinity_kernel[(count,)](
        **p.packed_arguments(chunk),
        word_inverses=p.word_norms[1],
        region_inverses=chunk.region_norms[1],
        affinities=out,
        columns=columns,
        stride=out.stride(0),
        NORMED=p.normed,
        STEP=pack.STEP,
        **p.product_arguments(blocks),
    )
