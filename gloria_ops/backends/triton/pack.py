"""Rows as the products read them: words packed text after text, regions padded with zeros, both in whole steps of D."""

# mypy: disable-error-code="no-untyped-def"
# Triton reads the annotations of kernels, and knows constexpr only.

import triton
import triton.language as tl
from torch import Tensor

from gloria_ops.backends.triton.block_sizes import LARGEST_STEP
from gloria_ops.backends.triton.plan import Plan
from gloria_ops.tokens import Ragged

# Rows of a program: `side` is a multiple of it.
ROWS = 16
STEP = LARGEST_STEP


@triton.jit
def inverse_of(norm):
    """1 / norm, and 0 of what has no length; NaN stays."""
    return tl.where(norm == 0.0, 0.0, 1.0 / norm)


@triton.jit(do_not_specialize=["texts"])
def pack_words_kernel(
    words,
    starts,
    dense_starts,
    packed,
    norms,
    inverses,
    origins,
    texts,
    dim,
    packed_dim,
    ROWS: tl.constexpr,
    STEP: tl.constexpr,
):
    """One program: the words of one text, with their norms and the rows that they come from; the last one: STEP zeros.

    Each program writes the rows of its own text.
    """
    text = tl.program_id(0)
    first_dense = tl.load(dense_starts + text)
    length = tl.load(dense_starts + text + 1, mask=text < texts, other=0) - first_dense
    start = tl.load(starts + text, mask=text < texts, other=0)
    for first in range(0, tl.where(text < texts, length, STEP), ROWS):
        row = first + tl.arange(0, ROWS)
        written, real = row < tl.where(text < texts, length, STEP), row < length
        origin, target = start + row, (first_dense + row).to(tl.int64)
        square = tl.zeros((ROWS,), tl.float32)
        for step in range(0, packed_dim, STEP):
            d = step + tl.arange(0, STEP)
            inside = real[:, None] & (d < dim)[None, :]
            t = tl.load(words + origin[:, None] * dim + d[None, :], mask=inside, other=0.0).to(tl.float32)
            within = written[:, None] & (d < packed_dim)[None, :]
            tl.store(packed + target[:, None] * packed_dim + d[None, :], t.to(packed.dtype.element_ty), mask=within)
            square += tl.sum(t * t, 1)
        norm = tl.sqrt(square)
        tl.store(norms + target, norm, mask=real)
        tl.store(inverses + target, inverse_of(norm), mask=real)
        tl.store(origins + target, origin, mask=real)


@triton.jit(do_not_specialize=["first_image", "images", "longest"])
def pack_regions_kernel(
    regions,
    starts,
    lengths,
    packed,
    norms,
    inverses,
    first_image,
    images,
    longest,
    dim,
    packed_dim,
    side,
    ROWS: tl.constexpr,
    STEP: tl.constexpr,
):
    """One program: ROWS of the `side` rows of one image, zeros beyond its regions and beyond the images; their norms.

    Each program writes its own rows.
    """
    first = tl.program_id(0) * ROWS
    image = first // side
    row = first - image * side + tl.arange(0, ROWS)
    start = tl.cast(0, tl.int64)
    length = 0
    if image < images:
        start = tl.load(starts + first_image + image)
        length = tl.minimum(tl.load(lengths + first_image + image), longest).to(tl.int32)
    square = tl.zeros((ROWS,), tl.float32)
    to = packed + first.to(tl.int64) * packed_dim + tl.arange(0, ROWS)[:, None] * packed_dim
    for step in range(0, packed_dim, STEP):
        d = step + tl.arange(0, STEP)
        inside = (row < length)[:, None] & (d < dim)[None, :]
        v = tl.load(regions + (start + row)[:, None] * dim + d[None, :], mask=inside, other=0.0).to(tl.float32)
        tl.store(to + d[None, :], v.to(packed.dtype.element_ty), mask=(d < packed_dim)[None, :])
        square += tl.sum(v * v, 1)
    norm = tl.sqrt(square)
    tl.store(norms + first + tl.arange(0, ROWS), norm)
    tl.store(inverses + first + tl.arange(0, ROWS), inverse_of(norm))


def pack_words(texts: Ragged, plan: Plan, packed: Tensor, norms: Tensor, origins: Tensor) -> None:
    """Fill packed (L_t + STEP, packed D), norms and their inverses (2, L_t) float32, and origins (L_t,) int64."""
    count = texts.starts.numel()
    pack_words_kernel[(count + 1,)](
        words=texts.rows,
        starts=texts.starts,
        dense_starts=plan.dense_starts,
        packed=packed,
        norms=norms[0],
        inverses=norms[1],
        origins=origins,
        texts=count,
        dim=texts.rows.shape[1],
        packed_dim=packed.shape[1],
        ROWS=ROWS,
        STEP=STEP,
    )


def pack_regions(
    images: Ragged, first_image: int, count: int, longest: int, side: int, packed: Tensor, norms: Tensor
) -> None:
    """Fill packed (rows, packed D), norms and their inverses (2, rows): `side` rows of `count` images, and zeros."""
    pack_regions_kernel[(triton.cdiv(triton.cdiv(count * side, STEP) * STEP, ROWS),)](
        regions=images.rows,
        starts=images.starts,
        lengths=images.lengths,
        packed=packed,
        norms=norms[0],
        inverses=norms[1],
        first_image=first_image,
        images=count,
        longest=longest,
        dim=images.rows.shape[1],
        packed_dim=packed.shape[1],
        side=side,
        ROWS=ROWS,
        STEP=STEP,
    )
