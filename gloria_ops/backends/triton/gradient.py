"""The gradient of the affinities, elementwise, which takes their place; for a hard maximum see `maximum`."""

# mypy: disable-error-code="no-untyped-def"
# Triton reads the annotations of kernels, and knows constexpr only.

import triton
import triton.language as tl
from torch import Tensor

from gloria_ops.backends.triton.device import LN2, LOG2E, affinity, kept, number, unnormalized, word_normed
from gloria_ops.backends.triton.problem import Chunk, Problem


@triton.jit
def attention_gradient(
    affinities, attended, products, centers, coefficients, of_words, of_regions, at, of_word, inside, real_word, real,
    level, plane, scale,
    NORM: tl.constexpr, COSINE: tl.constexpr, SMOOTH: tl.constexpr, NORMED: tl.constexpr, LOG2: tl.constexpr,
):  # fmt: skip
    """(s, x, gd a, gx) of words (W, R): see `pool.word_coefficient_kernel` for what is stored of a word.

    SMOOTH: gu a, and for gx what regions add to the gradient of the scale, times that scale: it is for nothing else.
    """
    s = affinity(affinities, at, inside, of_words, of_regions, "both" if NORMED else "none")
    x = word_normed(s, level, NORM, LOG2)
    gd = tl.load(coefficients + of_word, mask=real_word, other=0.0)
    center = tl.load(coefficients + plane + of_word, mask=real_word, other=0.0)
    if COSINE:
        e = tl.load(attended + at, mask=inside, other=0.0).to(tl.float32)
    else:
        reference = tl.load(coefficients + 5 * plane + of_word, mask=real_word, other=0.0)
        e = unnormalized(x, reference[:, None], scale * LOG2E)
        e = tl.where(real[None, :], e, 0.0)
    # Centered, so that an attention that is all at one region has a gradient of exactly 0.
    if SMOOTH:
        gx = gd[:, None] * (s - center[:, None])
    elif LOG2:
        gx = (gd * scale * LN2)[:, None] * (s - center[:, None])
    else:
        gx = (gd * scale)[:, None] * (s - center[:, None])
    if COSINE:
        of_square = tl.load(coefficients + 2 * plane + of_word, mask=real_word, other=0.0)
        mean = tl.load(centers + of_word, mask=real_word, other=0.0)
        h = tl.load(products + at, mask=inside, other=0.0).to(tl.float32)
        gx += of_square[:, None] * (h - mean[:, None])
    gx *= e
    return s, x, gd[:, None] * e, gx


@triton.jit(do_not_specialize=["chunk", "first_image", "longest", "capacity", "texts_at_once"])
def affinity_gradient_kernel(
    affinities,
    gradient,
    attended,
    products,
    centers,
    coefficients,
    word_norms,
    region_norms,
    levels,
    of_scale,
    dense_starts,
    first_texts,
    region_lengths,
    chunk,
    first_image,
    longest,
    stride,
    side,
    capacity,
    texts_at_once,
    scale,
    NORM: tl.constexpr,
    COSINE: tl.constexpr,
    SMOOTH: tl.constexpr,
    SCALED: tl.constexpr,
    NORMED: tl.constexpr,
    LOG2: tl.constexpr,
    PRECISION: tl.constexpr,
    W: tl.constexpr,
    R: tl.constexpr,
):
    """One program: R regions of one image, and every so-manieth text of the chunk.

    A program reads and writes its own words and regions of `affinities` and of `gradient` (the same memory in the dtype
    of the products) only. A barrier lies between the loop that reads them for the sums over the words of
    a text and the one that overwrites them; within the latter a block of words is loaded before it is stored.
    If SCALED, what it finds of the gradient of the attention scale is added to a place of its own in of_scale.
    """
    scale = number(scale)
    image, block = tl.program_id(1), tl.program_id(2)
    plane = tl.num_programs(1) * capacity
    first, end = tl.load(first_texts + chunk), tl.load(first_texts + chunk + 1)
    base = tl.load(dense_starts + first)
    region = block * R + tl.arange(0, R)
    stored = region < side
    real = region < tl.minimum(tl.load(region_lengths + first_image + image), longest).to(tl.int32)
    of_regions = tl.load(region_norms + image * side + region, mask=stored, other=0.0)
    if LOG2:
        of_regions *= LOG2E
    scaled = tl.zeros((R,), tl.float32)
    for text in range(first + tl.program_id(0), end, tl.num_programs(0)):
        start = tl.load(dense_starts + text)
        length = tl.load(dense_starts + text + 1) - start
        from_text = (start - base).to(tl.int64) * stride + image * side
        own, own_attended, own_products = affinities + from_text, attended + from_text, products + from_text
        of_text = image * capacity + start - base
        level = tl.zeros((R,), tl.float32)
        inner = tl.zeros((R,), tl.float32)
        if NORM != "none":
            own_level = levels + (image * texts_at_once + text - first) * side
            level = tl.load(own_level + region, mask=stored, other=1.0)
        # First the sums over the words of the text, where there is a norm; then the gradient.
        for storing in tl.static_range(1 if NORM == "none" else 0, 2):
            if storing and NORM != "none":
                # Nobody may still read, for the sums, what is overwritten below.
                tl.debug_barrier()
            for word in range(0, length, W):
                nth = word + tl.arange(0, W)
                real_word = nth < length
                at, inside = nth[:, None] * stride + region[None, :], real_word[:, None] & stored[None, :]
                of_words = tl.load(word_norms + start + nth, mask=real_word, other=0.0)
                s, x, gs, gx = attention_gradient(
                    own, own_attended, own_products, centers, coefficients, of_words, of_regions, at, of_text + nth,
                    inside, real_word, real, level, plane, scale, NORM, COSINE, SMOOTH, NORMED, LOG2,
                )  # fmt: skip
                if not storing:
                    inner += tl.sum(tl.where(real_word[:, None], x * gx, 0.0), 0)
                else:
                    if SCALED:
                        more = gx
                        if not SMOOTH:
                            # The sums of gx over all regions are 0, so that of x its mean may be taken off.
                            to_mean = coefficients + (1 if NORM == "none" else 8) * plane + of_text + nth
                            more *= x - tl.load(to_mean, mask=real_word, other=0.0)[:, None]
                        scaled += tl.sum(tl.where(real_word[:, None], more, 0.0), 0)
                    if NORM == "softmax":
                        gs += x * (gx - inner[None, :])
                    elif NORM == "clipped_l2":
                        gs += tl.where(s > 0, 1.0, 0.1) * (gx / level[None, :] - x * inner[None, :])
                    elif not SMOOTH:
                        gs += gx
                    gs = tl.where(real[None, :], gs, 0.0)
                    tl.store(gradient + from_text + at, kept(gs, gradient.dtype.element_ty, PRECISION), mask=inside)
            if not storing and NORM == "clipped_l2":
                root = level - 1e-8
                inner = tl.where(root > 0, inner / root, 0.0)
    if SCALED:
        to = of_scale + (image * tl.num_programs(2) + block) * tl.num_programs(0) + tl.program_id(0)
        tl.store(to, tl.load(to) + tl.sum(scaled, 0) / scale)


def affinity_gradients(
    p: Problem,
    chunk: Chunk,
    affinities: Tensor,
    gradient: Tensor,
    attended: Tensor,
    products: Tensor,
    centers: Tensor,
    coefficients: Tensor,
    levels: Tensor,
    of_scale: Tensor | None = None,
) -> None:
    """Gradient (capacity, stride) takes the place of the affinities.

    of_scale (at least images, planes, programs): what is added up to the gradient of the attention scale.
    """
    blocks = p.blocks.gradient
    if of_scale is not None:
        # The sum takes registers.
        blocks = blocks._replace(words=max(1, blocks.words // 2))
    affinity_gradient_kernel[(p.programs, chunk.images, p.planes(blocks))](
        affinities=affinities,
        gradient=gradient,
        attended=attended,
        products=products,
        centers=centers,
        coefficients=coefficients,
        levels=levels,
        of_scale=coefficients if of_scale is None else of_scale,
        stride=affinities.stride(0),
        COSINE=p.cosine,
        SMOOTH=p.smooth,
        SCALED=of_scale is not None,
        **p.elementwise_arguments(chunk, blocks),
    )
