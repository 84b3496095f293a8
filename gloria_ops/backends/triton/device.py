"""Device functions that several kernels share: block products, word norms, statistics of the attention."""

# mypy: disable-error-code="no-untyped-def"
# Triton reads the annotations of kernels, and knows constexpr only.

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
# exp(scale * (x - MIDDLE)) needs no maximum where x lies in [-1, 1] and the scale is small: see `Problem.reference`.
MIDDLE = tl.constexpr(0.5)
# Rows of blocks that share their columns while these are in the second-level cache.
GROUP = tl.constexpr(8)


@triton.jit
def number(scale):
    """A scale that is given as a number, or where it lies on the device."""
    scale = tl.to_tensor(scale)  # under the interpreter a number is one of Python
    if scale.dtype.is_ptr():
        return tl.load(scale)
    else:
        return scale


@triton.jit
def dot(a, b, acc, PRECISION: tl.constexpr, UPCAST: tl.constexpr):
    """Acc + a @ b in float32. UPCAST: the interpreter multiplies bfloat16 wrongly, and only it is told so."""
    if UPCAST:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision=PRECISION)


@triton.jit
def block_of(item, rows, columns):
    """(row, column) of a block: GROUP rows are walked together, column after column."""
    group = item // (GROUP * columns)
    members = tl.minimum(rows - group * GROUP, GROUP)
    rest = item % (GROUP * columns)
    return group * GROUP + rest % members, rest // members


@triton.jit
def rows_of_chunk(dense_starts, first_texts, chunk):
    """(first row, number of rows) among the packed words of the texts that begin in a chunk."""
    first = tl.load(dense_starts + tl.load(first_texts + chunk))
    return first, tl.load(dense_starts + tl.load(first_texts + chunk + 1)) - first


@triton.jit
def quarters(x, M: tl.constexpr, N: tl.constexpr):
    """The four (M, N / 4) of x: what is done with a whole block may take more registers than there are."""
    left, right = tl.split(tl.permute(tl.reshape(x, (M, 2, N // 2)), (0, 2, 1)))
    first, second = tl.split(tl.permute(tl.reshape(left, (M, 2, N // 4)), (0, 2, 1)))
    third, fourth = tl.split(tl.permute(tl.reshape(right, (M, 2, N // 4)), (0, 2, 1)))
    return first, second, third, fourth


@triton.jit
def kept(x, dtype: tl.constexpr, PRECISION: tl.constexpr):
    """X as it is stored between two products: what TF32 products drop is rounded off, so that sums see it too."""
    if PRECISION == "tf32":
        bits = x.to(tl.int32, bitcast=True)
        bits = (bits + 0x0FFF + ((bits >> 13) & 1)) & -0x2000
        # NaN must not be rounded to infinity.
        x = tl.where(x == x, bits.to(tl.float32, bitcast=True), x)
    return x.to(dtype)


@triton.jit
def clipped(s):
    """LeakyReLU(0.1)."""
    return tl.where(s > 0, s, 0.1 * s)


@triton.jit
def affinity(affinities, at, inside, of_words, of_regions, FACTORS: tl.constexpr):
    """Stored affinities (W, R) in float32, times the FACTORS of "words", "regions" or "both"; 0 outside."""
    s = tl.load(affinities + at, mask=inside, other=0.0).to(tl.float32)
    # Always in this order, for the greatest is recognized by its bits.
    if FACTORS == "regions" or FACTORS == "both":
        s *= of_regions[None, :]
    if FACTORS == "words" or FACTORS == "both":
        s *= of_words[:, None]
    return s


@triton.jit
def word_normed(s, level, NORM: tl.constexpr, LOG2: tl.constexpr):
    """X from s (W, R) and the level (R,) of the text: log2 of its sum of exponentials, or its L2 norm + 1e-8."""
    if NORM == "softmax":
        if LOG2:
            return tl.exp2(s - level[None, :])
        else:
            return tl.exp2(s * LOG2E - level[None, :])
    elif NORM == "clipped_l2":
        return clipped(s) / level[None, :]
    else:
        return s


@triton.jit
def unnormalized(x, reference, sharp):
    """The attention exp(scale (x - reference)) without its normalizer; sharp = scale * log2(e)."""
    return tl.exp2((x - reference) * sharp)


@triton.jit
def statistics(found, at, mask, plane, planes, sharp, MERGE: tl.constexpr, D: tl.constexpr = 2):
    """(reference, normalizer, d) of words with an image, from those of the blocks of its regions; d as it is kept.

    found: (3 or 4, planes, ...) float32, `plane` elements each: reference, sum of the attention, sum of attention times
    affinity, and, where the gradient of the scale needs it, times x, which is d if D is 3. MERGE: each block has a
    reference of its own.
    """
    reference = tl.full(at.shape, float("-inf"), tl.float32)
    normalizer = tl.zeros(at.shape, tl.float32)
    d = tl.zeros(at.shape, tl.float32)
    if MERGE:
        for block in range(0, planes):
            reference = tl.maximum(reference, tl.load(found + block * plane + at, mask=mask, other=0.0))
    for block in range(0, planes):
        own_normalizer = tl.load(found + (planes + block) * plane + at, mask=mask, other=1.0)
        own_d = tl.load(found + (D * planes + block) * plane + at, mask=mask, other=0.0)
        if MERGE:
            own = tl.load(found + block * plane + at, mask=mask, other=0.0)
            weight = tl.exp2((own - reference) * sharp)
            # A block without regions has no reference.
            weight = tl.where(own_normalizer == 0.0, 0.0, weight)
            normalizer += tl.where(weight == 0.0, 0.0, own_normalizer * weight)
            d += tl.where(weight == 0.0, 0.0, own_d * weight)
        else:
            normalizer += own_normalizer
            d += own_d
    return reference, normalizer, d
