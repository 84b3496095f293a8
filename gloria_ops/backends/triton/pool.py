"""Pooling: the similarities of the words of a text as its score with an image, and the gradient of each word's."""

# mypy: disable-error-code="no-untyped-def"
# Triton reads the annotations of kernels, and knows constexpr only.

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from gloria_ops.backends.triton.device import LN2, LOG2E, statistics
from gloria_ops.backends.triton.plan import LONGEST_TEXT
from gloria_ops.backends.triton.problem import Chunk, Problem

WORDS = 64


@triton.jit
def pooled(top, total, real, word_scale, POOL: tl.constexpr):
    """(maximum, sum) over all columns (C,) of their own; exponentials for the log-sum-exp, else plain sums."""
    best = tl.max(tl.where(real, top, float("-inf")), 0)
    if POOL == "logsumexp":
        total = tl.where(real, total * tl.exp(word_scale * (top - best)), 0.0)
    elif POOL == "max":
        total = tl.where(real & (top == best), total, 0.0)
    return best, tl.sum(total, 0)


@triton.jit
def pool_more(u, real, best, total, word_scale, POOL: tl.constexpr):
    """The running maximum and sum (C,) with C more similarities."""
    better = tl.maximum(best, tl.where(real, u, float("-inf")), propagate_nan=tl.PropagateNan.ALL)
    if POOL == "logsumexp":
        # A column that has seen no word keeps a maximum of -inf, and minus itself that is not a number.
        more = total * tl.exp(word_scale * (best - better)) + tl.exp(word_scale * (u - better))
        total = tl.where(real, more, total)
    elif POOL == "max":
        total = tl.where(real, tl.where(u > best, 1.0, total + tl.where(u == best, 1.0, 0.0)), total)
    else:
        total += tl.where(real, u, 0.0)
    return better, total


@triton.jit
def similarity(
    found, squares, dots, word_norms, at, word, real, plane, planes, scale,
    COSINE: tl.constexpr, HARD: tl.constexpr, LOG2: tl.constexpr,
):  # fmt: skip
    """(reference, normalizer, d / normalizer as d is kept, |c|, |t|, u) of words with an image."""
    reference, normalizer, d = statistics(found, at, real, plane, planes, scale * LOG2E, not COSINE, HARD)
    d /= normalizer
    norm = tl.full(d.shape, 1.0, tl.float32)
    word_norm = tl.full(d.shape, 1.0, tl.float32)
    u = d
    if LOG2:
        u *= LN2
    if COSINE:
        square = tl.load(squares + at, mask=real, other=1.0)
        # Below zero: see `direct.direct_kernel`.
        u = tl.where(square < 0.0, tl.load(dots + at, mask=real & (square < 0.0), other=0.0) / normalizer, u)
        norm = tl.sqrt(tl.abs(square)) / normalizer
        word_norm = tl.load(word_norms + word, mask=real, other=1.0)
        u = u / tl.maximum(norm * word_norm, 1e-8)
    return reference, normalizer, d, norm, word_norm, u


@triton.jit(do_not_specialize=["chunk", "first_image", "texts", "longest", "capacity", "plane", "planes"])
def pool_kernel(
    similarities,
    found,
    squares,
    dots,
    word_norms,
    word_lengths,
    region_lengths,
    dense_starts,
    first_texts,
    scores,
    chunk,
    first_image,
    texts,
    longest,
    capacity,
    plane,
    planes,
    scale,
    word_scale,
    FOUND: tl.constexpr,
    COSINE: tl.constexpr,
    HARD: tl.constexpr,
    LOG2: tl.constexpr,
    POOL: tl.constexpr,
    POOL_MEAN: tl.constexpr,
    POOL_DIVIDE: tl.constexpr,
    LONGEST: tl.constexpr,
    C: tl.constexpr,
):
    """Scores (N_v, N_t). One program: one image, every so-manieth text; it writes their scores only.

    From similarities (images, capacity); if FOUND, from the statistics of the attention and the contexts' squares.
    """
    image = tl.program_id(1).to(tl.int64)
    first, end = tl.load(first_texts + chunk), tl.load(first_texts + chunk + 1)
    base = tl.load(dense_starts + first)
    for text in range(first + tl.program_id(0), end, tl.num_programs(0)):
        start = tl.load(dense_starts + text)
        length = tl.load(dense_starts + text + 1) - start
        best = tl.full((C,), float("-inf"), tl.float32)
        total = tl.zeros((C,), tl.float32)
        for word in range(0, length, C):
            nth = word + tl.arange(0, C)
            at = tl.program_id(1) * capacity + start - base + nth
            if FOUND:
                u = similarity(
                    found, squares, dots, word_norms, at, start + nth, nth < length, plane, planes, scale,
                    COSINE, HARD, LOG2,
                )[5]  # fmt: skip
            else:
                u = tl.load(similarities + at, mask=nth < length, other=float("-inf"))
            best, total = pool_more(u, nth < length, best, total, word_scale, POOL)
        seen = tl.arange(0, C) < length
        invalid = tl.sum(tl.where(seen & (best != best), 1, 0), 0) > 0
        top, score = pooled(best, total, seen, word_scale, POOL)
        if POOL == "mean":
            score /= length
        elif POOL == "max":
            score = top
        elif POOL == "logsumexp":
            if POOL_MEAN:
                score /= length
            score = word_scale * top + tl.log(score)
            if POOL_DIVIDE:
                score /= word_scale
        # Columns with NaN are left out of a maximum, a text that is too long has no packed words, and an image that is
        # too long lacks regions.
        invalid = invalid | (tl.load(word_lengths + text) > LONGEST)
        invalid = invalid | (tl.load(region_lengths + first_image + image) > longest)
        tl.store(scores + (first_image + image) * texts + text, tl.where(invalid, float("nan"), score))


@triton.jit(do_not_specialize=["chunk", "first_image", "texts", "capacity", "plane", "planes"])
def word_coefficient_kernel(
    grad_scores,
    found,
    squares,
    dots,
    word_norms,
    dense_starts,
    first_texts,
    coefficients,
    chunk,
    first_image,
    texts,
    capacity,
    plane,
    planes,
    scale,
    word_scale,
    COSINE: tl.constexpr,
    HARD: tl.constexpr,
    LOG2: tl.constexpr,
    POOL: tl.constexpr,
    POOL_DIVIDE: tl.constexpr,
    C: tl.constexpr,
):
    """What the gradient of the affinities takes of each word: coefficients (7, images, capacity).

    With e the attention without its normalizer l, a = e / l, and h = G a:

        0  gd / l                   gd a = (0) e
        1  sum_j a s, as it is kept
        2  scale gn / (|c| l)       gx = e (scale (0) (s - (1)) + (2) (h - sum_j a h))
        3  gn / (|c| l^2)           of gG, with e on both sides
        4  -gu u / |t|^2            the part of gt along t
        5  the reference of e
        6  (3) of the words whose contexts cancel, which have 0 there

    One program: one image, every so-manieth text; it writes its own words' coefficients only.
    """
    image = tl.program_id(1)
    images = tl.num_programs(1)
    first, end = tl.load(first_texts + chunk), tl.load(first_texts + chunk + 1)
    base = tl.load(dense_starts + first)
    for text in range(first + tl.program_id(0), end, tl.num_programs(0)):
        start = tl.load(dense_starts + text)
        length = tl.load(dense_starts + text + 1) - start
        best = tl.full((C,), float("-inf"), tl.float32)
        total = tl.zeros((C,), tl.float32)
        for word in range(0, length, C):
            nth = word + tl.arange(0, C)
            at = image * capacity + start - base + nth
            u = similarity(
                found,
                squares,
                dots,
                word_norms,
                at,
                start + nth,
                nth < length,
                plane,
                planes,
                scale,
                COSINE,
                HARD,
                LOG2,
            )[5]
            best, total = pool_more(u, nth < length, best, total, word_scale, POOL)
        top, everything = pooled(best, total, tl.arange(0, C) < length, word_scale, POOL)
        g = tl.load(grad_scores + (first_image + image).to(tl.int64) * texts + text)
        for word in range(0, length, C):
            nth = word + tl.arange(0, C)
            real = nth < length
            at = image * capacity + start - base + nth
            reference, normalizer, d, norm, word_norm, u = similarity(
                found, squares, dots, word_norms, at, start + nth, real, plane, planes, scale, COSINE, HARD, LOG2
            )
            if POOL == "logsumexp":
                gu = g * tl.exp(word_scale * (u - top)) / everything
                if not POOL_DIVIDE:
                    gu *= word_scale
            elif POOL == "max":
                gu = tl.where(u == top, g / everything, 0.0)
            elif POOL == "mean":
                gu = tl.zeros((C,), tl.float32) + g / length
            else:
                gu = tl.zeros((C,), tl.float32) + g
            gd = gu
            of_square = tl.zeros((C,), tl.float32)
            along = tl.zeros((C,), tl.float32)
            lost = tl.zeros((C,), tl.int1)
            if COSINE:
                # Below zero: see `direct.direct_kernel`.
                lost = tl.load(squares + at, mask=real, other=0.0) < 0.0
                both = norm * word_norm
                gd = gu / tl.maximum(both, 1e-8)
                # Below its lower bound the product of the norms has no gradient.
                of_square = tl.where(both >= 1e-8, -gu * u / (norm * norm), 0.0)
                along = tl.where(both >= 1e-8, -gu * u / (word_norm * word_norm), 0.0)
            tl.store(coefficients + at, gd / normalizer, mask=real)
            tl.store(coefficients + images * capacity + at, d, mask=real)
            tl.store(coefficients + 2 * images * capacity + at, scale * of_square / normalizer, mask=real)
            weight = of_square / (normalizer * normalizer)
            tl.store(coefficients + 3 * images * capacity + at, tl.where(lost, 0.0, weight), mask=real)
            tl.store(coefficients + 4 * images * capacity + at, along, mask=real)
            tl.store(coefficients + 5 * images * capacity + at, reference, mask=real)
            tl.store(coefficients + 6 * images * capacity + at, tl.where(lost, weight, 0.0), mask=real)


def pool_similarities(p: Problem, chunk: Chunk, similarities: Tensor, scores: Tensor) -> None:
    """Fill the scores (N_v, N_t) of a chunk from similarities (images, L_t)."""
    nothing = {
        "found": similarities,
        "squares": similarities,
        "dots": similarities,
        "plane": 0,
        "planes": 0,
        "scale": 0.0,
    }
    arguments = {"HARD": False, "LOG2": False, "capacity": p.plan.capacity, "similarities": similarities}
    _pool(p, chunk, scores, FOUND=False, **nothing, **arguments)


def pool_found(p: Problem, chunk: Chunk, found: Tensor, lengths: Tensor, scores: Tensor) -> None:
    """The same from the statistics of the attention, and the contexts' squares and dots (2, images, capacity)."""
    squares, dots = lengths
    _pool(p, chunk, scores, FOUND=True, similarities=squares, squares=squares, dots=dots, **p.found_arguments(found))


def _pool(p: Problem, chunk: Chunk, scores: Tensor, **arguments: Any) -> None:
    pool_kernel[(p.programs, chunk.images)](
        word_norms=p.word_norms[0],
        word_lengths=p.texts.lengths,
        scores=scores,
        texts=scores.shape[1],
        word_scale=p.score.word_scale,
        COSINE=p.cosine,
        POOL=p.score.pool,
        POOL_MEAN=p.score.pool_mean,
        POOL_DIVIDE=p.score.pool_divide,
        LONGEST=LONGEST_TEXT,
        C=WORDS,
        num_warps=1,
        **p.image_arguments(chunk),
        **arguments,
    )


def word_coefficients(
    p: Problem, chunk: Chunk, grad_scores: Tensor, found: Tensor, lengths: Tensor, coefficients: Tensor
) -> None:
    """Fill coefficients (7, images, capacity)."""
    word_coefficient_kernel[(p.programs, chunk.images)](
        grad_scores=grad_scores,
        squares=lengths[0],
        dots=lengths[1],
        word_norms=p.word_norms[0],
        dense_starts=p.plan.dense_starts,
        first_texts=p.plan.first_texts,
        coefficients=coefficients,
        chunk=chunk.number,
        first_image=chunk.first_image,
        texts=grad_scores.shape[1],
        word_scale=p.score.word_scale,
        COSINE=p.cosine,
        POOL=p.score.pool,
        POOL_DIVIDE=p.score.pool_divide,
        C=WORDS,
        num_warps=1,
        **p.found_arguments(found),
    )
