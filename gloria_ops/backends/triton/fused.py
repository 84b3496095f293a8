"""Scores without a norm over words, in one kernel: affinities, softmax over regions and d, none of which is stored."""

# mypy: disable-error-code="no-untyped-def"
# Triton reads the annotations of kernels, and knows constexpr only.

import triton
import triton.language as tl
from torch import Tensor

from gloria_ops.backends.triton.device import LOG2E, block_of, number
from gloria_ops.backends.triton.plain import block_of_product, operands
from gloria_ops.backends.triton.problem import Chunk, Problem

# In place of a word's best region where several tie, or where an affinity is not a number.
TIED = tl.constexpr(-1)
# One region that is the best; more than there are regions. Of more than one best it does not matter how many.
ONE = tl.constexpr(1 << 20)


@triton.jit(do_not_specialize=["texts", "first_image", "images", "longest", "capacity"])
def fused_kernel(
    left,
    tail,
    right,
    similarities,
    bests,
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
    SMOOTH: tl.constexpr,
    HARD: tl.constexpr,
    KEEP: tl.constexpr,
    DESCRIBED: tl.constexpr,
    M: tl.constexpr,
    TAIL: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """U = sum_j a_j s_j, or the SMOOTH maximum (images, capacity). One program: M packed words with one image, N of its
    regions at a time.

    left, tail, right: packed words and regions. KEEP: bests (images, capacity), the best region of a HARD maximum, or
    TIED. A program writes its own words' u and bests only.
    """
    scale = number(scale)
    count = tl.load(dense_starts + texts)
    tiles = tl.cdiv(count, M)
    if tl.program_id(0) < tiles * images:
        image, tile = block_of(tl.program_id(0), images, tiles)
        regions = tl.minimum(tl.load(region_lengths + first_image + image), longest).to(tl.int32)
        first_row = tile * M
        best = tl.full((M,), -1e30, tl.float32)
        normalizer = tl.zeros((M,), tl.float32)
        d = tl.zeros((M,), tl.float32)
        found = tl.zeros((M,), tl.int32)
        sharp = scale * LOG2E
        tl.assume(dim > 0)
        for first in tl.range(0, regions, N, flatten=DESCRIBED):
            region = first + tl.arange(0, N)
            first_region = image * side + first
            s, _ = block_of_product(
                left, tail, right, first_row, first_region, 0, dim, 0, count, image * side + side, dim, dim,
                False, False, DESCRIBED, M, TAIL, N, K, PRECISION, UPCAST,
            )  # fmt: skip
            s = tl.where((region < regions)[None, :], s, -1e30)
            better = tl.maximum(best, tl.max(s, 1))
            if HARD:
                # The best regions share the attention, so u is the best affinity; NaN is best nowhere, and must show.
                d += tl.sum(s - s, 1)
                if KEEP:
                    # Their number in the upper bits, and below, where it is 1, the region.
                    here = tl.sum(tl.where(s == better[:, None], region[None, :] + ONE, 0), 1)
                    found = tl.minimum(here + tl.where(better > best, 0, found), 2 * ONE)
            else:
                shrink = tl.exp2((best - better) * sharp)
                a = tl.exp2((s - better[:, None]) * sharp)
                normalizer = normalizer * shrink + tl.sum(a, 1)
                if not SMOOTH:
                    d = d * shrink + tl.sum(a * s, 1)
            best = better
        if HARD:
            u = best + d
        elif SMOOTH:
            u = best + tl.log(normalizer) / scale
        else:
            u = d / normalizer
        rows = first_row + tl.arange(0, M)
        tl.store(similarities + image.to(tl.int64) * capacity + rows, u, mask=rows < count)
        if KEEP:
            alone = (found >= ONE) & (found < 2 * ONE) & (d == d)
            found = tl.where(alone, found - ONE, TIED)
            tl.store(bests + image.to(tl.int64) * capacity + rows, found, mask=rows < count)


def fused(p: Problem, chunk: Chunk, out: Tensor, bests: Tensor | None = None) -> None:
    """Fill the similarities out (images, L_t), and int32 bests of the same shape."""
    blocks, capacity = p.blocks.fused, out.shape[1]
    fused_kernel[(triton.cdiv(capacity, blocks.rows) * chunk.images,)](
        **operands(blocks, p.packed_words, chunk.packed_regions),
        similarities=out,
        bests=out if bests is None else bests,
        dense_starts=p.plan.dense_starts,
        region_lengths=p.images.lengths,
        texts=p.texts.starts.numel(),
        first_image=chunk.first_image,
        images=chunk.images,
        longest=p.longest,
        capacity=capacity,
        dim=p.dim,
        side=p.side,
        scale=p.scale,
        SMOOTH=p.smooth,
        HARD=p.hard,
        KEEP=bests is not None,
        **p.product_arguments(blocks),
    )
