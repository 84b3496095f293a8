"""Backward of a hard maximum: of each word with an image the best region, or those that tie, and nothing of the others.

Forward keeps which they are, or is run once more for them. Two products and a gradient of the size of the affinities
become sums of rows: those of the best regions for each word, and those of words for each region. Each sum has one
program, which takes its terms in their order.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton reads the annotations of kernels, and knows constexpr only.

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from gloria_ops.backends.triton import products
from gloria_ops.backends.triton.device import rows_of_chunk
from gloria_ops.backends.triton.fused import TIED, fused
from gloria_ops.backends.triton.pool import weight_gradients, word_coefficients
from gloria_ops.backends.triton.problem import Chunk, Problem
from gloria_ops.learnable import Learnable

# Words among which a region looks for its own at a time, and of these how many it reads at once: one may be the best of
# all words.
WORDS, AT_ONCE = 512, 8


@triton.jit
def affinity_of(own, t, region, d, dim):
    """A region (D,) of an image, and its affinity with a word t (D,)."""
    v = tl.load(own + region * dim + d, mask=d < dim, other=0.0).to(tl.float32)
    return v, tl.sum(v * t, 0)


@triton.jit(do_not_specialize=["chunk", "first_image", "longest", "all_words"])
def best_similarity_kernel(
    packed_words,
    packed_regions,
    bests,
    similarities,
    dense_starts,
    first_texts,
    region_lengths,
    chunk,
    first_image,
    longest,
    all_words,
    capacity,
    side,
    dim,
    D: tl.constexpr,
):
    """Similarities (images, capacity): <t, v> of each word with its best region. One program: one word, one image."""
    base, count = rows_of_chunk(dense_starts, first_texts, chunk)
    row, image = tl.program_id(0), tl.program_id(1)
    if row < count:
        d = tl.arange(0, D)
        best = tl.load(bests + image.to(tl.int64) * all_words + base + row)
        own = packed_regions + image.to(tl.int64) * side * dim
        t = tl.load(packed_words + (base + row).to(tl.int64) * dim + d, mask=d < dim, other=0.0).to(tl.float32)
        _, u = affinity_of(own, t, tl.maximum(best, 0), d, dim)
        if best == TIED:
            for region in range(1, tl.minimum(tl.load(region_lengths + first_image + image), longest).to(tl.int32)):
                _, s = affinity_of(own, t, region, d, dim)
                u = tl.maximum(u, s, propagate_nan=tl.PropagateNan.ALL)
        tl.store(similarities + image * capacity + row, u)


@triton.jit(do_not_specialize=["chunk", "first_image", "images", "longest", "all_words"])
def best_regions_kernel(
    packed_words,
    packed_regions,
    coefficients,
    bests,
    ties,
    origins,
    grad_words,
    rest,
    dense_starts,
    first_texts,
    region_lengths,
    chunk,
    first_image,
    images,
    longest,
    all_words,
    capacity,
    side,
    width,
    dim,
    SPLIT: tl.constexpr,
    D: tl.constexpr,
):
    """grad_words (L_t, D) += gu / number of the best * these, image after image.

    One program: one word of the chunk, whose gradient and rest (see `products.words_kernel`) it alone writes. Where
    regions tie, which do is found by products of rows, of which it writes 0 or 1 for each to its own row of ties
    (images, capacity, side), and to its own coefficient gu / their number.
    """
    base, count = rows_of_chunk(dense_starts, first_texts, chunk)
    row = tl.program_id(0)
    if row < count:
        d = tl.arange(0, D)
        acc = tl.zeros((D,), tl.float32)
        for image in range(0, images):
            weight = tl.load(coefficients + image * capacity + row)
            best = tl.load(bests + tl.cast(image, tl.int64) * all_words + base + row)
            own = packed_regions + tl.cast(image, tl.int64) * side * dim
            if best != TIED:
                acc += weight * tl.load(own + best * dim + d, mask=d < dim, other=0.0).to(tl.float32)
            else:
                regions = tl.minimum(tl.load(region_lengths + first_image + image), longest).to(tl.int32)
                t = tl.load(packed_words + (base + row).to(tl.int64) * dim + d, mask=d < dim, other=0.0).to(tl.float32)
                _, top = affinity_of(own, t, 0, d, dim)
                for region in range(1, regions):
                    _, s = affinity_of(own, t, region, d, dim)
                    top = tl.maximum(top, s)
                total = tl.zeros((D,), tl.float32)
                found = 0
                to_ties = ties + (tl.cast(image, tl.int64) * capacity + row) * side
                for region in range(0, regions):
                    v, s = affinity_of(own, t, region, d, dim)
                    # One that is not a number is the best, too, and shows.
                    among = (s >= top) | (s != s)
                    total += tl.where(among, v, 0.0)
                    found += among.to(tl.int32)
                    tl.store(to_ties + region, among.to(tl.int8))
                weight /= found
                tl.store(coefficients + image * capacity + row, weight)
                acc += weight * total
        to = grad_words + tl.load(origins + base + row) * width + d
        to_rest = rest + (base + row).to(tl.int64) * dim + d
        acc += tl.load(to, mask=d < width, other=0.0).to(tl.float32)
        if SPLIT:
            acc += tl.load(to_rest, mask=d < width, other=0.0).to(tl.float32)
        rounded = acc.to(grad_words.dtype.element_ty)
        tl.store(to, rounded, mask=d < width)
        if SPLIT:
            tl.store(to_rest, (acc - rounded.to(tl.float32)).to(rest.dtype.element_ty), mask=d < width)


@triton.jit(do_not_specialize=["chunk", "first_image", "longest", "all_words"])
def best_words_kernel(
    packed_words,
    coefficients,
    bests,
    ties,
    sums,
    dense_starts,
    first_texts,
    region_lengths,
    chunk,
    first_image,
    longest,
    all_words,
    capacity,
    side,
    dim,
    C: tl.constexpr,
    G: tl.constexpr,
    D: tl.constexpr,
):
    """Sums (columns, D) += coefficients * words that a region is the best of, or set with the first chunk.

    One program: one region of one image, whose sum it alone writes. Only of words with ties are `ties` looked at.
    """
    base, count = rows_of_chunk(dense_starts, first_texts, chunk)
    region, image = tl.program_id(0), tl.program_id(1)
    if region < tl.load(region_lengths + first_image + image):
        d = tl.arange(0, D)
        acc = tl.zeros((D,), tl.float32)
        for first in range(0, count, C):
            row = first + tl.arange(0, C)
            best = tl.load(bests + image.to(tl.int64) * all_words + base + row, mask=row < count, other=side)
            own = best == region
            if tl.min(best, 0) == TIED:
                of_row = (image * capacity + row).to(tl.int64) * side + region
                own = own | (tl.load(ties + of_row, mask=best == TIED, other=0) > 0)
            place, found = tl.cumsum(own.to(tl.int32), 0), tl.sum(own.to(tl.int32), 0)
            for some in range(0, found, G):
                nth = some + 1 + tl.arange(0, G)
                chosen = own[None, :] & (place[None, :] == nth[:, None])
                word = tl.sum(tl.where(chosen, row[None, :], 0), 1)
                weight = tl.load(coefficients + image * capacity + word, mask=nth <= found, other=0.0)
                t = packed_words + (base + word).to(tl.int64)[:, None] * dim + d[None, :]
                t = tl.load(t, mask=(nth <= found)[:, None] & (d < dim)[None, :], other=0.0)
                acc += tl.sum(weight[:, None] * t.to(tl.float32), 0)
        to = sums + (image * side + region).to(tl.int64) * dim + d
        if chunk > 0:
            acc += tl.load(to, mask=d < dim, other=0.0)
        tl.store(to, acc, mask=d < dim)


def gradients(p: Problem, grad_scores: Tensor, best: Tensor | None) -> tuple[Tensor, ...]:
    """What `gradients.backward` returns; `best` (N_v, L_t) as forward kept it, or None."""
    rows, words = p.plan.capacity, p.texts.rows.shape[0]
    weights, _, word_scale = p.learnable
    reads_similarities = p.score.pool not in ("mean", "sum") or weights is not None
    bytes_of_image = rows * (p.side + 48) + 8 * words + 4 * p.side * p.dim + p.packed_bytes
    at_once, grad_regions, grad_words, rest = products.sums_of_backward(p, bytes_of_image)
    # The statistics of an attention that the best region has alone, which is its own reference.
    found = p.empty(3, 1, at_once, rows).zero_()
    found[1] = 1.0
    coefficients = p.empty(9 if p.learnable.given else 7, at_once, rows)
    ties = p.empty(at_once, rows, p.side, dtype=torch.int8)
    sums = p.empty(p.columns(at_once), p.dim)
    grad_weights = None if weights is None else torch.zeros_like(weights)
    of_word = None if word_scale is None else torch.empty_like(grad_scores)
    for of_chunk in p.image_chunks(at_once):
        p.pack_regions(of_chunk)
        if best is None:
            bests = p.empty(of_chunk.images, words, dtype=torch.int32)
            fused(p, of_chunk, p.empty(of_chunk.images, words), bests)
        else:
            bests = best[of_chunk.first_image :][: of_chunk.images]
        for number in range(p.plan.chunks):
            chunk = of_chunk._replace(number=number)
            if reads_similarities:
                _best_similarities(p, chunk, bests, found[2, 0])
            word_coefficients(p, chunk, grad_scores, found, coefficients[:2], coefficients, of_word)
            if grad_weights is not None:
                weight_gradients(p, chunk, coefficients[7], grad_weights)
            _best_regions(p, chunk, coefficients, bests, ties, grad_words, rest)
            _best_words(p, chunk, coefficients, bests, ties, sums)
        products.finish(p, of_chunk, sums, p.empty(products.GRAM_PARTS, 0, 0, 0), grad_regions)
    grad_word_scale = None if of_word is None else of_word.double().sum().float()
    return grad_regions, grad_words, *Learnable(grad_weights, None, grad_word_scale).given


def _best_similarities(p: Problem, chunk: Chunk, bests: Tensor, similarities: Tensor) -> None:
    """Fill similarities (images, capacity)."""
    best_similarity_kernel[p.plan.capacity, chunk.images](
        packed_regions=chunk.packed_regions,
        similarities=similarities,
        num_warps=_warps(1, p.dim),
        **_arguments(p, chunk, bests),
    )


def _best_regions(
    p: Problem,
    chunk: Chunk,
    coefficients: Tensor,
    bests: Tensor,
    ties: Tensor,
    grad_words: Tensor,
    rest: Tensor | None,
) -> None:
    """Add to grad_words, and to their rest where they have one; fill ties of the words that have any."""
    best_regions_kernel[(p.plan.capacity,)](
        packed_regions=chunk.packed_regions,
        origins=p.origins,
        grad_words=grad_words,
        rest=grad_words if rest is None else rest,
        images=chunk.images,
        width=grad_words.shape[1],
        SPLIT=rest is not None,
        coefficients=coefficients,
        ties=ties,
        num_warps=_warps(1, p.dim),
        **_arguments(p, chunk, bests),
    )


def _best_words(p: Problem, chunk: Chunk, coefficients: Tensor, bests: Tensor, ties: Tensor, sums: Tensor) -> None:
    """Add to sums (columns, D), or set them with the first chunk of texts; those of no region stay what they are."""
    best_words_kernel[p.longest, chunk.images](
        sums=sums,
        C=WORDS,
        G=AT_ONCE,
        coefficients=coefficients,
        ties=ties,
        num_warps=_warps(4, p.dim),
        **_arguments(p, chunk, bests),
    )


def _warps(least: int, width: int) -> int:
    """More for what is wide, whose registers one warp has not."""
    return min(8, max(least, least * triton.next_power_of_2(width) // 1024))


def _arguments(p: Problem, chunk: Chunk, bests: Tensor) -> dict[str, Any]:
    return {
        "packed_words": p.packed_words,
        "bests": bests,
        "all_words": bests.shape[1],
        "side": p.side,
        "capacity": p.plan.capacity,
        "dim": p.dim,
        "D": triton.next_power_of_2(p.dim),
        **p.image_arguments(chunk),
    }
