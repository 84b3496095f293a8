"""What every Triton kernel is built of: the block product, the sums over the words of a text, the word normalisation.

A block of affinities has regions as rows (R of them) and words as columns (C). The columns are SLOTS slots of C / SLOTS
words; a slot holds words of one text only, so that sums over a text are sums over its slots.
"""

# ruff: noqa: SIM108
# mypy: disable-error-code="no-untyped-def"
# Triton reads the annotations of kernels, and knows constexpr only.

import triton
import triton.language as tl

SLOTS = tl.constexpr(8)


@triton.jit
def product(a, b, acc, PRECISION: tl.constexpr, UPCAST: tl.constexpr):
    """Acc + a @ b in float32. UPCAST: the interpreter multiplies bfloat16 wrongly, and only it is told so."""
    if UPCAST:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision=PRECISION)


@triton.jit
def affinity(
    regions,
    region_rows,
    region_real,
    words,
    word_rows,
    word_real,
    dim,
    R: tl.constexpr,
    C: tl.constexpr,
    K: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """s: (R, C) float32, the product of R regions with C words; rows that are not real are never read.

    `regions` points at an image, and region_rows are int32; word_rows are int64 rows of all words.
    """
    acc = tl.zeros((R, C), tl.float32)
    for start in range(0, dim, K):
        k = start + tl.arange(0, K)
        v = tl.load(
            regions + region_rows[:, None] * dim + k[None, :],
            mask=region_real[:, None] & (k < dim)[None, :],
            other=0.0,
        )
        t = tl.load(
            words + word_rows[None, :] * dim + k[:, None],
            mask=word_real[None, :] & (k < dim)[:, None],
            other=0.0,
        )
        acc = product(v, t, acc, PRECISION, UPCAST)
    return acc


@triton.jit
def text_sum(x, texts):
    """(R, SLOTS): for each slot, the sum of x (R, C) over the words of its text; texts (SLOTS,) names it."""
    slots = tl.sum(tl.reshape(x, (x.shape[0], SLOTS, x.shape[1] // SLOTS)), 2)
    joined = tl.zeros_like(slots)
    slot = tl.arange(0, SLOTS)
    for other in range(SLOTS):
        # Other texts are left out, not multiplied by zero: one of them may hold NaN.
        share = tl.sum(tl.where((slot == other)[None, :], slots, 0.0), 1)
        text = tl.sum(tl.where(slot == other, texts, 0), 0)
        joined = tl.where((texts == text)[None, :], joined + share[:, None], joined)
    return joined


@triton.jit
def text_max(x, texts):
    """(R, SLOTS): for each slot, the maximum of x (R, C) over the words of its text."""
    slots = tl.max(tl.reshape(x, (x.shape[0], SLOTS, x.shape[1] // SLOTS)), 2)
    joined = tl.full(slots.shape, float("-inf"), tl.float32)
    slot = tl.arange(0, SLOTS)
    for other in range(SLOTS):
        share = tl.max(tl.where((slot == other)[None, :], slots, float("-inf")), 1)
        text = tl.sum(tl.where(slot == other, texts, 0), 0)
        joined = tl.where((texts == text)[None, :], tl.maximum(joined, share[:, None]), joined)
    return joined


@triton.jit
def spread(x, C: tl.constexpr):
    """(R, C): the value of each slot, x (R, SLOTS), at each of its words."""
    R: tl.constexpr = x.shape[0]
    return tl.reshape(tl.broadcast_to(x[:, :, None], (R, SLOTS, C // SLOTS)), (R, C))


@triton.jit
def clipped(s):
    """LeakyReLU(0.1)."""
    return tl.where(s > 0, s, 0.1 * s)


@triton.jit
def norm_statistics(s, word_real, texts, NORM: tl.constexpr):
    """Of each text at each region, (R, SLOTS): maximum and sum of exponentials ("clipped_l2": 0 and sum of squares)."""
    if NORM == "softmax":
        s = tl.where(word_real[None, :], s, float("-inf"))
        top = text_max(s, texts)
        top = tl.where(top == float("-inf"), 0.0, top)  # a slot without words
        total = text_sum(tl.exp(s - spread(top, s.shape[1])), texts)
    else:
        x = tl.where(word_real[None, :], clipped(s), 0.0)
        total = text_sum(x * x, texts)
        top = tl.zeros_like(total)
    return top, total


@triton.jit
def norm_level(top, total, NORM: tl.constexpr):
    """The statistics as one: log of the sum of exponentials of a text ("clipped_l2": its L2 norm + 1e-8)."""
    if NORM == "softmax":
        return top + tl.log(total)
    else:
        return tl.sqrt(total) + 1e-8


@triton.jit
def word_normed(s, level, word_real, NORM: tl.constexpr):
    """x: (R, C) from s and the levels of its texts; 0 where there is no word."""
    if NORM == "softmax":
        x = tl.exp(s - spread(level, s.shape[1]))
    else:
        x = clipped(s) * spread(1.0 / level, s.shape[1])
    return tl.where(word_real[None, :], x, 0.0)


@triton.jit
def merge(top, total, other_top, other_total):
    """The statistics of two parts of a text as those of the whole."""
    both = tl.maximum(top, other_top)
    return both, total * tl.exp(top - both) + other_total * tl.exp(other_top - both)


@triton.jit
def long_text_level(
    regions,
    region_rows,
    region_real,
    words,
    tile_rows,
    tile,
    span,
    dim,
    R: tl.constexpr,
    C: tl.constexpr,
    K: tl.constexpr,
    NORM: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """norm_level (R, SLOTS), the same in every slot, of a text that fills the tiles from `tile` on, `span` of them."""
    one_text = tl.zeros((SLOTS,), tl.int32)
    if NORM == "softmax":
        top = tl.full((R, SLOTS), float("-inf"), tl.float32)
    else:
        top = tl.zeros((R, SLOTS), tl.float32)
    total = tl.zeros((R, SLOTS), tl.float32)
    for part in range(tile, tile + span):
        word_rows = tl.load(tile_rows + part * C + tl.arange(0, C)).to(tl.int64)
        word_real = word_rows >= 0
        s = affinity(regions, region_rows, region_real, words, word_rows, word_real, dim, R, C, K, PRECISION, UPCAST)
        part_top, part_total = norm_statistics(s, word_real, one_text, NORM)
        # The tiles behind the last word hold nothing, and a maximum of 0 that must not count.
        if tl.max(word_rows, 0) >= 0:
            top, total = merge(top, total, part_top, part_total)
    return norm_level(top, total, NORM)
