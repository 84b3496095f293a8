"""The Gram matrix G = V V^T of the regions of each image: the upper triangle of blocks is computed, both written."""

# mypy: disable-error-code="no-untyped-def"
# Triton reads the annotations of kernels, and knows constexpr only.

import triton
import triton.language as tl

from gloria_ops.backends.triton.blocks import affinity


@triton.jit(do_not_specialize=["first_image", "longest"])
def gram_kernel(
    regions,
    region_starts,
    region_lengths,
    gram,
    first_image,
    longest,
    dim,
    side,
    R: tl.constexpr,
    K: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Gram (images, side, side), zero beyond the regions of an image. One program: one block of one image."""
    image = tl.program_id(2).to(tl.int64)
    row, column = tl.program_id(1), tl.program_id(0)
    if row <= column:
        start = tl.load(region_starts + first_image + image)
        length = tl.minimum(tl.load(region_lengths + first_image + image), longest)
        own = regions + start * dim
        rows = row * R + tl.arange(0, R)
        columns = column * R + tl.arange(0, R)
        block = affinity(
            own,
            rows,
            rows < length,
            own,
            columns.to(tl.int64),
            columns < length,
            dim,
            R,
            R,
            K,
            PRECISION,
            UPCAST,
        ).to(gram.dtype.element_ty)
        gram += image * side * side
        tl.store(gram + rows[:, None] * side + columns[None, :], block)
        tl.store(gram + columns[:, None] * side + rows[None, :], tl.trans(block))
