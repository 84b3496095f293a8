"""Pooling: the similarities of the words of a text as its score with an image, and the gradient of each word's."""

# mypy: disable-error-code="no-untyped-def"
# Triton reads the annotations of kernels, and knows constexpr only.

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from gloria_ops.backends.triton.device import LN2, LOG2E, number, rows_of_chunk, statistics
from gloria_ops.backends.triton.plan import LONGEST_TEXT
from gloria_ops.backends.triton.problem import Chunk, Problem

WORDS = 64


@triton.jit
def pooled(best, total, moment, counted, length, real, word_scale, POOL: tl.constexpr, WEIGHTED: tl.constexpr):
    """(maximum, sum, sum times similarities, number of words or sum of weights) of all columns (C,) together."""
    top = tl.max(tl.where(real, best, float("-inf")), 0)
    if POOL == "logsumexp" or POOL == "softmax":
        shrink = tl.exp(word_scale * (best - top))
        total = tl.where(real, total * shrink, 0.0)
        moment = tl.where(real, moment * shrink, 0.0)
    elif POOL == "max":
        total = tl.where(real & (best == top), total, 0.0)
    count = length.to(tl.float32)
    if WEIGHTED:
        count = tl.sum(counted, 0)
    return top, tl.sum(total, 0), tl.sum(moment, 0), count


@triton.jit
def pool_more(
    u, weight, real, best, total, moment, counted, word_scale, POOL: tl.constexpr, WEIGHTED: tl.constexpr
):  # fmt: skip
    """The running maximum and sums (C,) with C more similarities: of exponentials, of these times u, of weights."""
    better = tl.maximum(best, tl.where(real, u, float("-inf")), propagate_nan=tl.PropagateNan.ALL)
    if WEIGHTED:
        counted += weight
    if POOL == "logsumexp" or POOL == "softmax":
        # A column that has seen no word keeps a maximum of -inf, and minus itself that is not a number.
        shrink, term = tl.exp(word_scale * (best - better)), tl.exp(word_scale * (u - better))
        if WEIGHTED:
            term *= weight
        total = tl.where(real, total * shrink + term, total)
        if POOL == "softmax":
            moment = tl.where(real, moment * shrink + term * u, moment)
    elif POOL == "max":
        total = tl.where(real, tl.where(u > best, 1.0, total + tl.where(u == best, 1.0, 0.0)), total)
    else:
        if WEIGHTED:
            u *= weight
        total += tl.where(real, u, 0.0)
    return better, total, moment, counted


@triton.jit
def pool_score(
    top, total, moment, count, word_scale,
    POOL: tl.constexpr, POOL_MEAN: tl.constexpr, POOL_DIVIDE: tl.constexpr,
):  # fmt: skip
    """The score from what `pooled` returns."""
    score = total
    if POOL == "mean":
        score /= count
    elif POOL == "max":
        score = top
    elif POOL == "softmax":
        score = moment / total
    elif POOL == "logsumexp":
        if POOL_MEAN:
            score /= count
        score = word_scale * top + tl.log(score)
        if POOL_DIVIDE:
            score /= word_scale
    return score


@triton.jit
def weight_of(weights, origins, word, real, WEIGHTED: tl.constexpr):
    """Weights of packed words, which lie as the rows do that these come from; 1 where none are given."""
    weight = tl.full(word.shape, 1.0, tl.float32)
    if WEIGHTED:
        weight = tl.load(weights + tl.load(origins + word, mask=real, other=0), mask=real, other=0.0)
    return weight


@triton.jit
def similarity(
    found, squares, dots, word_norms, at, word, real, plane, planes, scale,
    COSINE: tl.constexpr, SMOOTH: tl.constexpr, LOG2: tl.constexpr,
):  # fmt: skip
    """(reference, normalizer, d / normalizer as d is kept, |c|, |t|, u) of words with an image; SMOOTH: u for d."""
    reference, normalizer, d = statistics(found, at, real, plane, planes, scale * LOG2E, not COSINE)
    if SMOOTH:
        d = reference + tl.log(normalizer) / scale
    else:
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


@triton.jit
def pool_of_text(
    similarities, found, squares, dots, word_norms, weights, origins, of_text, start, length, plane, planes,
    scale, word_scale,
    FOUND: tl.constexpr, COSINE: tl.constexpr, SMOOTH: tl.constexpr, LOG2: tl.constexpr,
    POOL: tl.constexpr, WEIGHTED: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """What `pooled` returns of the words of a text with an image, and whether any of them is not a number."""
    best = tl.full((C,), float("-inf"), tl.float32)
    total = tl.zeros((C,), tl.float32)
    moment = tl.zeros((C,), tl.float32)
    counted = tl.zeros((C,), tl.float32)
    for word in range(0, length, C):
        nth = word + tl.arange(0, C)
        if FOUND:
            u = similarity(
                found, squares, dots, word_norms, of_text + nth, start + nth, nth < length, plane, planes, scale,
                COSINE, SMOOTH, LOG2,
            )[5]  # fmt: skip
        else:
            u = tl.load(similarities + of_text + nth, mask=nth < length, other=float("-inf"))
        weight = weight_of(weights, origins, start + nth, nth < length, WEIGHTED)
        best, total, moment, counted = pool_more(
            u, weight, nth < length, best, total, moment, counted, word_scale, POOL, WEIGHTED
        )
    seen = tl.arange(0, C) < length
    invalid = tl.sum(tl.where(seen & (best != best), 1, 0), 0) > 0
    top, total, moment, count = pooled(best, total, moment, counted, length, seen, word_scale, POOL, WEIGHTED)
    return top, total, moment, count, invalid


@triton.jit(do_not_specialize=["chunk", "first_image", "texts", "longest", "capacity", "plane", "planes"])
def pool_kernel(
    similarities,
    found,
    squares,
    dots,
    word_norms,
    weights,
    origins,
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
    SMOOTH: tl.constexpr,
    LOG2: tl.constexpr,
    POOL: tl.constexpr,
    POOL_MEAN: tl.constexpr,
    POOL_DIVIDE: tl.constexpr,
    WEIGHTED: tl.constexpr,
    LONGEST: tl.constexpr,
    C: tl.constexpr,
):
    """Scores (N_v, N_t). One program: one image, every so-manieth text; it writes their scores only.

    From similarities (images, capacity); if FOUND, from the statistics of the attention and the contexts' squares.
    """
    scale, word_scale = number(scale), number(word_scale)
    image = tl.program_id(1).to(tl.int64)
    first, end = tl.load(first_texts + chunk), tl.load(first_texts + chunk + 1)
    base = tl.load(dense_starts + first)
    for text in range(first + tl.program_id(0), end, tl.num_programs(0)):
        start = tl.load(dense_starts + text)
        length = tl.load(dense_starts + text + 1) - start
        top, total, moment, count, invalid = pool_of_text(
            similarities, found, squares, dots, word_norms, weights, origins,
            tl.program_id(1) * capacity + start - base, start, length, plane, planes, scale, word_scale,
            FOUND, COSINE, SMOOTH, LOG2, POOL, WEIGHTED, C,
        )  # fmt: skip
        score = pool_score(top, total, moment, count, word_scale, POOL, POOL_MEAN, POOL_DIVIDE)
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
    weights,
    origins,
    dense_starts,
    first_texts,
    coefficients,
    of_word_scale,
    chunk,
    first_image,
    texts,
    capacity,
    plane,
    planes,
    scale,
    word_scale,
    COSINE: tl.constexpr,
    SMOOTH: tl.constexpr,
    LOG2: tl.constexpr,
    POOL: tl.constexpr,
    POOL_MEAN: tl.constexpr,
    POOL_DIVIDE: tl.constexpr,
    WEIGHTED: tl.constexpr,
    SCALED: tl.constexpr,
    MEANS: tl.constexpr,
    C: tl.constexpr,
):
    """What the gradient of the affinities takes of each word: coefficients (7 or 9, images, capacity).

    With e the attention without its normalizer l, a = e / l, and h = G a:

        0  gd / l                   gd a = (0) e
        1  sum_j a s, as it is kept; of a smooth maximum u
        2  scale gn / (|c| l)       gx = e (scale (0) (s - (1)) + (2) (h - sum_j a h))
        3  gn / (|c| l^2)           of gG, with e on both sides
        4  -gu u / |t|^2            the part of gt along t
        5  the reference of e
        6  (3) of the words whose contexts cancel, which have 0 there
        7  if WEIGHTED, this image's share of the gradient of the word's weight
        8  if MEANS, sum_j a x

    If SCALED, of_word_scale (N_v, N_t): each score's share of the gradient of word_scale.
    One program: one image, every so-manieth text; it writes its own words' coefficients and scores' shares only.
    """
    scale, word_scale = number(scale), number(word_scale)
    image = tl.program_id(1)
    images = tl.num_programs(1)
    first, end = tl.load(first_texts + chunk), tl.load(first_texts + chunk + 1)
    base = tl.load(dense_starts + first)
    for text in range(first + tl.program_id(0), end, tl.num_programs(0)):
        start = tl.load(dense_starts + text)
        length = tl.load(dense_starts + text + 1) - start
        top, total, moment, count, _ = pool_of_text(
            found, found, squares, dots, word_norms, weights, origins, image * capacity + start - base, start, length,
            plane, planes, scale, word_scale, True, COSINE, SMOOTH, LOG2, POOL, WEIGHTED, C,
        )  # fmt: skip
        z = pool_score(top, total, moment, count, word_scale, POOL, POOL_MEAN, POOL_DIVIDE)
        at_score = (first_image + image).to(tl.int64) * texts + text
        g = tl.load(grad_scores + at_score)
        of_scale = tl.zeros((C,), tl.float32)
        for word in range(0, length, C):
            nth = word + tl.arange(0, C)
            real = nth < length
            at = image * capacity + start - base + nth
            reference, normalizer, d, norm, word_norm, u = similarity(
                found, squares, dots, word_norms, at, start + nth, real, plane, planes, scale,
                COSINE, SMOOTH, LOG2,
            )  # fmt: skip
            if POOL == "logsumexp" or POOL == "softmax":
                gu = g * tl.exp(word_scale * (u - top)) / total
            elif POOL == "max":
                gu = tl.where(u == top, g / total, 0.0)
            elif POOL == "mean":
                gu = tl.zeros((C,), tl.float32) + g / count
            else:
                gu = tl.zeros((C,), tl.float32) + g
            if WEIGHTED:
                of_weight = gu
                if POOL == "sum":
                    of_weight *= u
                elif POOL != "logsumexp":
                    of_weight *= u - z
                else:
                    if POOL_MEAN:
                        of_weight -= g / count
                    if POOL_DIVIDE:
                        of_weight /= word_scale
                tl.store(coefficients + 7 * images * capacity + at, of_weight, mask=real)
                gu *= weight_of(weights, origins, start + nth, real, WEIGHTED)
            if MEANS:
                mean = statistics(found, at, real, plane, planes, scale * LOG2E, not COSINE, D=3)[2] / normalizer
                tl.store(coefficients + 8 * images * capacity + at, mean, mask=real)
            if SCALED:
                more = gu * u
                if POOL == "softmax":
                    more = gu * (u - z) * (u - z)
                elif POOL_DIVIDE:
                    more = gu * (u - z) / word_scale
                of_scale += tl.where(real, more, 0.0)
            if POOL == "softmax":
                gu *= 1.0 + word_scale * (u - z)
            elif POOL == "logsumexp" and not POOL_DIVIDE:
                gu *= word_scale
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
        if SCALED:
            tl.store(of_word_scale + at_score, tl.sum(of_scale, 0))


@triton.jit(do_not_specialize=["chunk", "images", "capacity"])
def weight_gradient_kernel(
    of_images, origins, grad_weights, dense_starts, first_texts, chunk, images, capacity, C: tl.constexpr
):
    """grad_weights (L_t,) += of_images (images, capacity), image after image. One program: C words of the chunk."""
    base, count = rows_of_chunk(dense_starts, first_texts, chunk)
    row = tl.program_id(0) * C + tl.arange(0, C)
    real = row < count
    to = grad_weights + tl.load(origins + base + row, mask=real, other=0)
    total = tl.load(to, mask=real, other=0.0)
    for image in range(0, images):
        total += tl.load(of_images + image * capacity + row, mask=real, other=0.0)
    tl.store(to, total, mask=real)


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
    arguments = {"LOG2": False, "capacity": p.plan.capacity, "similarities": similarities}
    _pool(p, chunk, scores, FOUND=False, **nothing, **arguments)


def pool_found(p: Problem, chunk: Chunk, found: Tensor, lengths: Tensor, scores: Tensor) -> None:
    """The same from the statistics of the attention, and the contexts' squares and dots (2, images, capacity)."""
    squares, dots = lengths
    _pool(p, chunk, scores, FOUND=True, similarities=squares, squares=squares, dots=dots, **p.found_arguments(found))


def _pool(p: Problem, chunk: Chunk, scores: Tensor, **arguments: Any) -> None:
    pool_kernel[(p.programs, chunk.images)](
        word_lengths=p.texts.lengths,
        scores=scores,
        texts=scores.shape[1],
        LONGEST=LONGEST_TEXT,
        **p.image_arguments(chunk),
        **_arguments(p),
        **arguments,
    )


def word_coefficients(
    p: Problem,
    chunk: Chunk,
    grad_scores: Tensor,
    found: Tensor,
    lengths: Tensor,
    coefficients: Tensor,
    of_word_scale: Tensor | None = None,
) -> None:
    """Fill coefficients (7, or with anything learned 9, images, capacity), and of_word_scale (N_v, N_t) if given."""
    word_coefficient_kernel[(p.programs, chunk.images)](
        grad_scores=grad_scores,
        squares=lengths[0],
        dots=lengths[1],
        dense_starts=p.plan.dense_starts,
        first_texts=p.plan.first_texts,
        coefficients=coefficients,
        of_word_scale=grad_scores if of_word_scale is None else of_word_scale,
        chunk=chunk.number,
        first_image=chunk.first_image,
        texts=grad_scores.shape[1],
        SCALED=of_word_scale is not None,
        MEANS=len(found) > 3,
        **_arguments(p),
        **p.found_arguments(found),
    )


def weight_gradients(p: Problem, chunk: Chunk, of_images: Tensor, grad_weights: Tensor) -> None:
    """Add of_images (at least images, capacity), image after image, to grad_weights (L_t,)."""
    weight_gradient_kernel[(triton.cdiv(p.plan.capacity, WORDS),)](
        of_images=of_images,
        origins=p.origins,
        grad_weights=grad_weights,
        dense_starts=p.plan.dense_starts,
        first_texts=p.plan.first_texts,
        chunk=chunk.number,
        images=chunk.images,
        capacity=p.plan.capacity,
        C=WORDS,
        num_warps=1,
    )


def _arguments(p: Problem) -> dict[str, Any]:
    """What both kernels over the words of a text are specialized for and launched with."""
    weights = p.learnable.word_weights
    return {
        "word_norms": p.word_norms[0],
        "weights": p.word_norms[0] if weights is None else weights,
        "origins": p.origins,
        "word_scale": p.word_scale,
        "COSINE": p.cosine,
        "SMOOTH": p.smooth,
        "POOL": p.score.pool,
        "POOL_MEAN": p.score.pool_mean,
        "POOL_DIVIDE": p.score.pool_divide,
        "WEIGHTED": weights is not None,
        "C": WORDS,
        "num_warps": 1,
    }
