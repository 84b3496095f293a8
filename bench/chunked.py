"""The peer to beat on a GPU: cuBLAS products of a chunk of images, one softmax kernel between them, nothing padded.

What a good engineer writes first: S = T Vᵀ of some images by one large product into memory, a kernel for both
softmaxes, a batched product with the Gram matrices, and the same backwards. Chunks have a fixed size, so memory does
not grow with N², but every intermediate of a chunk goes through memory. Presets `released` and `paper`, texts of at
most 128 words.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton reads the annotations of kernels, and knows constexpr only.

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from gloria_ops import LocalScore

# Of the affinities of one chunk, in their dtype: some of them together stay in the second-level cache of an H100.
CHUNK_BYTES = 64 << 20
LONGEST = 128  # words of a text: one block of the softmax kernel


class Batch(NamedTuple):
    """Regions (N, side, D) with rows of zeros behind the M of each image, and words (L, D) packed.

    rows: (N_t, longest) of `words`, those of a text first; real: which of them are words.
    """

    regions: Tensor
    count: int
    words: Tensor
    starts: Tensor
    lengths: Tensor
    rows: Tensor
    real: Tensor
    norms: Tensor
    score: LocalScore


@triton.jit
def attention_kernel(
    affinities, attended, found, starts, lengths, stride, regions, side, words, scale,
    SOFTMAX: tl.constexpr, W: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """One program: one text with one image. `released`: attention without its normalizer, and d; `paper`: u."""
    text, image = tl.program_id(0), tl.program_id(1)
    length = tl.load(lengths + text).to(tl.int32)
    rows = tl.load(starts + text) + tl.arange(0, W)
    real = tl.arange(0, W) < length
    best = tl.full((W,), 0.5 if SOFTMAX else float("-inf"), tl.float32)
    total = tl.zeros((W,), tl.float32)
    d = tl.zeros((W,), tl.float32)
    for first in range(0, regions, R):
        region = first + tl.arange(0, R)
        at = rows[:, None] * stride + image * side + region[None, :]
        inside = real[:, None] & (region < regions)[None, :]
        s = tl.load(affinities + at, mask=inside, other=float("-inf")).to(tl.float32)
        if SOFTMAX:
            x = tl.exp(s - tl.max(s, 0)[None, :])
            x = x / tl.sum(x, 0)[None, :]
            a = tl.where(inside, tl.exp(scale * (x - 0.5)), 0.0)
            rounded = a.to(attended.dtype.element_ty)
            tl.store(attended + at, rounded, mask=real[:, None] & (region < side)[None, :])
            a = rounded.to(tl.float32)
        else:
            better = tl.maximum(best, tl.max(s, 1))
            shrink = tl.exp(scale * (best - better))
            total *= shrink
            d *= shrink
            best = better
            a = tl.where(inside, tl.exp(scale * (s - best[:, None])), 0.0)
        total += tl.sum(a, 1)
        d += tl.sum(tl.where(inside, a * s, 0.0), 1)
    at = image.to(tl.int64) * words + rows
    if SOFTMAX:
        tl.store(found + at, d, mask=real)
    else:
        tl.store(found + at, d / total, mask=real)
        # What backward needs of the soft maximum, behind the similarities.
        plane = tl.num_programs(1).to(tl.int64) * words
        tl.store(found + plane + at, best, mask=real)
        tl.store(found + 2 * plane + at, total, mask=real)


@triton.jit
def square_kernel(attended, products, squares, stride, side, words, R: tl.constexpr):
    """Sum of attended times products over the regions: |c|² of one word with one image."""
    word, image = tl.program_id(0).to(tl.int64), tl.program_id(1)
    at = word * stride + image * side
    square = tl.zeros((R,), tl.float32)
    for first in range(0, side, R):
        region = first + tl.arange(0, R)
        a = tl.load(attended + at + region, mask=region < side, other=0.0).to(tl.float32)
        square += a * tl.load(products + at + region, mask=region < side, other=0.0).to(tl.float32)
    tl.store(squares + image.to(tl.int64) * words + word, tl.sum(square, 0))


@triton.jit
def gradient_kernel(
    affinities, attended, products, found, of_d, of_square, starts, lengths, stride, regions, side, words, scale,
    SOFTMAX: tl.constexpr, W: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """Affinities become gs in place, and products become the attention weighted for the gradient of G."""
    text, image = tl.program_id(0), tl.program_id(1)
    length = tl.load(lengths + text).to(tl.int32)
    rows = tl.load(starts + text) + tl.arange(0, W)
    real = tl.arange(0, W) < length
    at_word = image.to(tl.int64) * words + rows
    gd = tl.load(of_d + at_word, mask=real, other=0.0)
    for first in range(0, side, R):
        region = first + tl.arange(0, R)
        at = rows[:, None] * stride + image * side + region[None, :]
        stored = real[:, None] & (region < side)[None, :]
        inside = real[:, None] & (region < regions)[None, :]
        s = tl.load(affinities + at, mask=inside, other=float("-inf")).to(tl.float32)
        if SOFTMAX:
            p = tl.exp(s - tl.max(s, 0)[None, :])
            p = tl.where(inside, p / tl.sum(p, 0)[None, :], 0.0)
            a = tl.load(attended + at, mask=inside, other=0.0).to(tl.float32)
            along = tl.load(of_square + at_word, mask=real, other=0.0)[:, None]
            y = tl.load(products + at, mask=inside, other=0.0).to(tl.float32)
            gx = scale * a * (gd[:, None] * tl.where(inside, s, 0.0) + along * y)
            gs = gd[:, None] * a + p * (gx - tl.sum(p * gx, 0)[None, :])
            tl.store(products + at, (along * a).to(products.dtype.element_ty), mask=stored)
        else:
            plane = tl.num_programs(1).to(tl.int64) * words
            u = tl.load(found + at_word, mask=real, other=0.0)
            best = tl.load(found + plane + at_word, mask=real, other=0.0)
            total = tl.load(found + 2 * plane + at_word, mask=real, other=1.0)
            a = tl.where(inside, tl.exp(scale * (s - best[:, None])) / total[:, None], 0.0)
            gs = gd[:, None] * a * (1 + scale * (tl.where(inside, s, 0.0) - u[:, None]))
        tl.store(affinities + at, tl.where(inside, gs, 0.0).to(affinities.dtype.element_ty), mask=stored)


class ChunkedScores(torch.autograd.Function):
    """Scores (N, N_t) float32 of regions (N, M, D) and packed words (L, D), lengths (N_t,) on the device."""

    @staticmethod
    def forward(ctx: Any, regions: Tensor, words: Tensor, lengths: Tensor, longest: int, score: LocalScore) -> Tensor:
        """`longest`: of the lengths, known on the host."""
        batch = prepared(regions, words, lengths, longest, score)
        ctx.save_for_backward(regions, words, lengths)
        ctx.longest, ctx.score = longest, score
        return torch.cat([pooled(similarities(batch, first)[0], batch) for first in starts(batch)])

    @staticmethod
    def backward(ctx: Any, grad_scores: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Chunk by chunk again, the gradient of the words summed in float32."""
        batch = prepared(*ctx.saved_tensors, ctx.longest, ctx.score)
        grad_regions = torch.empty_like(ctx.saved_tensors[0])
        grad_words = torch.zeros_like(batch.words, dtype=torch.float32)
        for first in starts(batch):
            _differentiate(batch, first, grad_scores, grad_regions, grad_words)
        return grad_regions, grad_words.to(batch.words.dtype), None, None, None


def prepared(regions: Tensor, words: Tensor, lengths: Tensor, longest: int, score: LocalScore) -> Batch:
    """The batch; `side` is a multiple of 8 rows, as cuBLAS's fast kernels want it."""
    if longest > LONGEST:
        raise ValueError(f"the longest text has {longest} words; this peer takes {LONGEST} at most")
    images, count, width = regions.shape
    side = -(-count // 8) * 8
    padded = regions.new_zeros(images, side, width)
    padded[:, :count] = regions
    starts = lengths.cumsum(0) - lengths
    nth = torch.arange(longest, device=words.device)
    real = nth < lengths[:, None]
    rows = torch.where(real, starts[:, None] + nth, 0)
    norms = torch.linalg.vector_norm(words, dim=1, dtype=torch.float32)
    return Batch(padded, count, words, starts, lengths, rows, real, norms, score)


def starts(batch: Batch) -> range:
    """First images of the chunks."""
    images, side, _ = batch.regions.shape
    of_image = side * batch.words.shape[0] * batch.words.element_size()
    return range(0, images, max(1, min(images, CHUNK_BYTES // of_image)))


def similarities(batch: Batch, first: int) -> tuple[Tensor, ...]:
    """u (images, L) of a chunk, and what backward needs of it."""
    v = batch.regions[first : first + starts(batch).step]
    images, side, width = v.shape
    count = batch.words.shape[0]
    affinities = batch.words @ v.view(-1, width).T
    softmax = batch.score.word_norm == "softmax"
    attended = torch.empty_like(affinities) if softmax else affinities
    found = batch.norms.new_empty(1 if softmax else 3, images, count)
    _launch(attention_kernel, batch, images, affinities, attended, found)
    if not softmax:
        return found[0], affinities, found
    gram = v @ v.transpose(1, 2)
    products = torch.empty_like(affinities)
    by_image = (attended.view(count, images, side).transpose(0, 1), products.view(count, images, side).transpose(0, 1))
    torch.bmm(by_image[0], gram, out=by_image[1])
    squares = torch.empty_like(found[0])
    square_kernel[(count, images)](attended, products, squares, images * side, side, count, R=512)
    norm = squares.clamp(min=0).sqrt()
    return found[0] / (norm * batch.norms).clamp(min=1e-8), affinities, found, attended, products, norm


def pooled(u: Tensor, batch: Batch) -> Tensor:
    """Log-sum-exp over the words of each text, (images, N_t)."""
    scores = _log_sum_exp(u, batch)
    return scores / batch.score.word_scale if batch.score.pool_divide else scores


def _differentiate(batch: Batch, first: int, grad_scores: Tensor, grad_regions: Tensor, grad_words: Tensor) -> None:
    u, affinities, found, *of_cosine = similarities(batch, first)
    images, count = u.shape
    v = batch.regions[first : first + images]
    side, width = v.shape[1:]
    gu = _grad_similarities(u, batch, grad_scores[first : first + images])
    softmax = batch.score.word_norm == "softmax"
    attended, products, norm = of_cosine or (affinities, affinities, u)
    of_d = gu / (norm * batch.norms) if softmax else gu
    of_square = -gu * u / norm.square() if softmax else gu
    _launch(gradient_kernel, batch, images, affinities, attended, products, found, of_d, of_square)
    grad_words += affinities @ v.view(-1, width)
    of_regions = (affinities.T @ batch.words).view(images, side, width)
    if softmax:
        grad_words -= ((gu * u).sum(0) / batch.norms.square())[:, None] * batch.words
        weighted, plain = (each.view(count, images, side).permute(1, 2, 0) for each in (products, attended))
        of_regions = torch.baddbmm(of_regions, weighted @ plain.transpose(1, 2), v)
    grad_regions[first : first + images] = of_regions[:, : batch.count]


def _grad_similarities(u: Tensor, batch: Batch, grad_scores: Tensor) -> Tensor:
    """The gradient of u (images, L) from that of the scores (images, N_t)."""
    owners = torch.repeat_interleave(
        torch.arange(batch.lengths.numel(), device=u.device), batch.lengths, output_size=u.shape[1]
    )
    share = (batch.score.word_scale * u - _log_sum_exp(u, batch)[:, owners]).exp()
    gu = grad_scores[:, owners] * share
    return gu if batch.score.pool_divide else batch.score.word_scale * gu


def _log_sum_exp(u: Tensor, batch: Batch) -> Tensor:
    scaled = batch.score.word_scale * u[:, batch.rows]
    return scaled.masked_fill(~batch.real, float("-inf")).logsumexp(2)


def _launch(kernel: Any, batch: Batch, images: int, *tensors: Tensor) -> None:
    side, count = batch.regions.shape[1], batch.words.shape[0]
    kernel[(batch.lengths.numel(), images)](
        *tensors, batch.starts, batch.lengths, images * side, batch.count, side, count, batch.score.attention_scale,
        SOFTMAX=batch.score.word_norm == "softmax", W=LONGEST, R=32, num_warps=8,
    )  # fmt: skip
