"""Scores without a norm over words, in one kernel: affinities, softmax over regions and d, none of which is stored."""

# mypy: disable-error-code="no-untyped-def"
# Triton reads the annotations of kernels, and knows constexpr only.

import math

import triton
import triton.language as tl
from torch import Tensor

from gloria_ops.backends.triton.device import LOG2E, block_of, dot
from gloria_ops.backends.triton.problem import Chunk, Problem


@triton.jit(do_not_specialize=["texts", "first_image", "images", "longest", "capacity"])
def fused_kernel(
    packed_words,
    packed_regions,
    similarities,
    dense_starts,
    region_lengths,
    texts,
    first_image,
    images,
    longest,
    capacity,
    dim,
    side,
    scale,
    HARD: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """U = sum_j a_j s_j (images, capacity). One program: M packed words with one image, N of its regions at a time.

    Reads packed rows, writes its own words' u only.
    """
    count = tl.load(dense_starts + texts)
    tiles = tl.cdiv(count, M)
    if tl.program_id(0) < tiles * images:
        image, tile = block_of(tl.program_id(0), images, tiles)
        regions = tl.minimum(tl.load(region_lengths + first_image + image), longest).to(tl.int32)
        rows, k = tl.arange(0, M), tl.arange(0, K)
        first_row = tile * M
        # Rows beyond the last are read as the last, and not stored: a mask would cost registers in the loop.
        t = (
            packed_words
            + first_row.to(tl.int64) * dim
            + tl.minimum(rows, count - 1 - first_row)[:, None] * dim
            + k[None, :]
        )
        v = packed_regions + image.to(tl.int64) * side * dim + k[:, None]
        best = tl.full((M,), -1e30, tl.float32)
        normalizer = tl.zeros((M,), tl.float32)
        d = tl.zeros((M,), tl.float32)
        sharp = scale * LOG2E
        for first in range(0, regions, N):
            region = first + tl.arange(0, N)
            own = v + tl.minimum(region, side - 1)[None, :] * dim
            s = tl.zeros((M, N), tl.float32)
            for step in range(0, dim, K):
                s = dot(tl.load(t + step), tl.load(own + step), s, PRECISION, UPCAST)
            s = tl.where((region < regions)[None, :], s, -1e30)
            better = tl.maximum(best, tl.max(s, 1))
            if HARD:
                # The best regions share the attention, so u is the best affinity; NaN is best nowhere, and must show.
                d += tl.sum(s - s, 1)
            else:
                shrink = tl.exp2((best - better) * sharp)
                a = tl.exp2((s - better[:, None]) * sharp)
                normalizer = normalizer * shrink + tl.sum(a, 1)
                d = d * shrink + tl.sum(a * s, 1)
            best = better
        u = best + d if HARD else d / normalizer
        at = image.to(tl.int64) * capacity + first_row + rows
        tl.store(similarities + at, u, mask=first_row + rows < count)


def fused(p: Problem, chunk: Chunk, out: Tensor) -> None:
    """Fill the similarities out (images, L_t)."""
    blocks = p.blocks.fused
    fused_kernel[(triton.cdiv(p.plan.capacity, blocks.rows) * chunk.images,)](
        packed_words=p.packed_words,
        packed_regions=chunk.packed_regions,
        similarities=out,
        dense_starts=p.plan.dense_starts,
        region_lengths=p.images.lengths,
        texts=p.texts.starts.numel(),
        first_image=chunk.first_image,
        images=chunk.images,
        longest=p.longest,
        capacity=p.plan.capacity,
        dim=p.dim,
        side=p.side,
        scale=p.scale,
        HARD=math.isinf(p.score.attention_scale),
        **p.product_arguments(blocks),
    )
