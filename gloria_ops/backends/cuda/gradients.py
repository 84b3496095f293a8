"""Backward: affinities and attention once more, their gradient elementwise, and plain products, chunk by chunk.

Chunks of images are the outer loop: the gradients of a chunk's regions are complete before the next begins, those of
the words are summed in float32 chunk after chunk. Nothing is added by atomics, so the same inputs give the same bits.
A chunk of images with a chunk of tiles has, for each affinity,

    s       bfloat16 problems keep float16 of it, float16 ones float32
    G a     likewise; for the cosine only
    gs      in the dtype of the problem; in the place of s, where that has 16 bits
    a       float16; in the place of G a, likewise

as matrices (images, height, columns). The products are gT += gsᵀ V and gV += gs T, by torch, and gG += a diag(w) aᵀ,
with w the weight of a word's attention, by a kernel that takes half of it: gG is symmetric.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gloria_ops.backends.cuda.device import device_of, dtype_of, empty, loaded, processors, zeros
from gloria_ops.backends.cuda.pack import (
    Images,
    Words,
    longest,
    pack_images,
    pack_words,
    padded,
    power_of_two_above,
    scaled,
)
from gloria_ops.backends.cuda.scores import exponent_scale, gram, similarities
from gloria_ops.score import LocalScore
from gloria_ops.tokens import Ragged

# Bytes of the matrices of a chunk (at least one image with one run of tiles).
WORKSPACE_BYTES = 384 << 20
# Rows and columns of a block of large products of cuBLAS. To move a byte of each value of a product takes as long as so
# much more depth would (H100 120, A100 70, by their data sheets). The kernel of the affinities is half as fast.
CUBLAS_BLOCK, GRAM_BLOCK, _DEPTH_OF_BYTE, _SHARE = (128, 256), 128, 96, 0.5
# Bytes moved for a value of a product that is added to a float32 sum.
BYTES_OF_SUM = 8
# Where float16 gradients end.
_LARGEST = 2.0**15


class _Tiles(NamedTuple):
    """A chunk of tiles: whole runs, so that no text is cut."""

    first_run: int
    counts: Tensor  # what stands for those of the plan
    first: int
    tiles: int


class _Runs(NamedTuple):
    """Tiles of each run, and how many runs, which come first, are of texts of several tiles."""

    spans: list[int]
    of_long_texts: int


class _Scratch(NamedTuple):
    """The matrices of a chunk: (images, height, columns), or flat, for one chunk after the other."""

    affinities: Tensor
    products: Tensor
    gradient: Tensor
    attention: Tensor

    @staticmethod
    def bytes_of_value(dtype: torch.dtype, cosine: bool) -> int:
        """Of all matrices together."""
        return (6 if dtype == torch.float16 else 2) * (1 + cosine)

    @classmethod
    def of(cls, rows: Tensor, values: int, cosine: bool) -> _Scratch:
        """Room for so many values in each."""
        wide, half = rows.dtype == torch.float16, torch.float16
        sizes = values, values * cosine
        s, h = (empty(rows, each, dtype=torch.float32 if wide else half) for each in sizes)
        gs, a = (empty(rows, each, dtype=half) for each in sizes) if wide else (s, h)
        return cls(s, h, gs.view(rows.dtype), a)

    def matrices(self, *shape: int) -> _Scratch:
        """Those of a chunk."""
        return _Scratch(*(each[: math.prod(shape)].view(shape) if each.numel() else each for each in self))


def backward(grad_scores: Tensor, images: Ragged, texts: Ragged, score: LocalScore) -> tuple[Tensor, Tensor]:
    """Gradients of the rows of images and texts, of their shape and dtype; rows that belong to no item get zeros.

    Raises:
        NotImplementedError: more regions an image than the kernels take.
    """
    kernels, count, most = loaded(), images.starts.numel(), longest(images)
    side, height = padded(most, kernels.ROWS), padded(most, kernels.KEPT_ROWS)
    words = pack_words(texts)
    cosine = score.similarity == "cosine"
    # The score of an image longer than its share of the rows is NaN, and so are its gradients.
    grad_scores = grad_scores.float().masked_fill((images.lengths > most)[:, None], math.nan)
    values = WORKSPACE_BYTES // _Scratch.bytes_of_value(images.rows.dtype, cosine)
    runs = _runs(words)
    at_once, tiles = sizes_of_chunk(
        count,
        sum(runs.spans),
        height,
        kernels.WORDS,
        words.rows.shape[1],
        values,
        processors(images.rows),
        cosine,
    )
    chunks = list(_chunks_of_tiles(runs, tiles, words.rows.device))
    values = at_once * height * max((chunk.tiles for chunk in chunks), default=0) * kernels.WORDS
    scratch = _Scratch.of(images.rows, values, cosine)
    grad_regions, grad_words = torch.zeros_like(images.rows), torch.zeros_like(texts.rows)
    columns = sum(chunk.tiles for chunk in chunks) * kernels.WORDS
    of_columns, of_words = zeros(words.rows, columns, words.rows.shape[1]), zeros(words.rows, columns)
    for first in range(0, count, at_once):
        which = slice(first, first + at_once)
        chunk = pack_images(images, which, side)
        own = zeros(chunk.rows, chunk.lengths.numel(), height, chunk.rows.shape[2])
        _add_images(
            chunk, words, chunks, texts, grad_scores[which].contiguous(), score, scratch, own, of_columns, of_words
        )
        position = torch.arange(height, device=own.device)
        rows = images.starts[which, None] + position
        _put(grad_regions, torch.where(position < chunk.lengths[:, None], rows, -1).flatten(), own.flatten(0, 1))
    # For the cosine, a word's own vector has a part.
    of_columns.addcmul_(of_words[:, None], words.rows[:columns])
    _put(grad_words, words.kept["rows"].flatten()[:columns], of_columns)
    return grad_regions, grad_words


@cache
def sizes_of_chunk(
    images: int, tiles: int, height: int, words: int, width: int, values: int, processors: int, cosine: bool
) -> tuple[int, int]:
    """How many images with how many tiles to take at once.

    Where both have about as many rows, the sums of both gradients are read and written least often. Near that, what
    leaves least of the GPU idle in the last wave of blocks of each product, and of pairs of a tile with an image.

    Args:
        images: in all.
        tiles: in all.
        height: rows of an image.
        words: of a tile.
        width: of the embeddings.
        values: affinities that there is room for.
        processors: of the GPU.
        cosine: there is a product of each image alone.
    """
    if images * tiles * height * words <= values:
        return images, tiles
    square = math.isqrt(values)
    some = np.arange(max(1, square // height // 2), max(1, min(images, square * 2 // height)) + 1)[:, None]
    others = np.clip(values // (some * height * words) - np.arange(square // words // 3 + 1), 1, tiles)

    def clocks(blocks: np.ndarray, inner: np.ndarray) -> np.ndarray:
        return -(-blocks // processors) * (inner + BYTES_OF_SUM * _DEPTH_OF_BYTE)

    def of_chunk(some: np.ndarray, others: np.ndarray) -> np.ndarray:
        rows, columns = some * height, others * words
        tall, across = CUBLAS_BLOCK[0], -(-width // CUBLAS_BLOCK[1])
        found = clocks(-(-columns // tall) * across, rows) + clocks(-(-rows // tall) * across, columns)
        if cosine:
            # Half as large are the blocks of the kernel for gG, of which an image has those up to the diagonal.
            down = -(-height // GRAM_BLOCK)
            found = found + clocks(some * down * (down + 1) // 2, columns) / 2
        item = height * words * (width + cosine * height) / (CUBLAS_BLOCK[0] * CUBLAS_BLOCK[1] * _SHARE)
        return (found - (-some * others // processors) * item) * (rows * columns > 0)

    whole, last = (images // some, tiles // others), (images % some, tiles % others)
    found = whole[0] * whole[1] * of_chunk(some, others) + of_chunk(*last)
    found += whole[0] * of_chunk(some, last[1]) + whole[1] * of_chunk(last[0], others)
    row, column = np.unravel_index(found.argmin(), found.shape)
    return int(some[row, 0]), int(others[row, column])


def _add_images(
    chunk: Images,
    words: Words,
    chunks: list[_Tiles],
    texts: Ragged,
    grad_scores: Tensor,
    score: LocalScore,
    scratch: _Scratch,
    of_regions: Tensor,
    of_columns: Tensor,
    of_words: Tensor,
) -> None:
    """Adds the gradients that some images give themselves and the words, chunk by chunk of tiles."""
    kernels, rows, cosine = loaded(), chunk.rows, score.similarity == "cosine"
    (count, side, dim), height = rows.shape, of_regions.shape[1]
    flat, norms = rows[:, :height].flatten(0, 1), chunk.norms.view(count, side)[:, :height].contiguous()
    hard = math.isinf(score.attention_scale)
    regions, unscale = scaled(chunk, padded(dim, kernels.ROWS))
    grams = gram(regions).half() if cosine else None
    grad_grams = zeros(rows, count, side, side) if cosine else None
    for tiles in chunks:
        pitch = tiles.tiles * kernels.WORDS
        matrices = scratch.matrices(count, height, pitch)
        statistics = zeros(rows, kernels.STATISTICS, count, pitch)
        factors = zeros(rows, kernels.COEFFICIENTS, count, pitch)
        plan = words.plan(tiles.first_run, tiles.counts)
        kept = kernels.Kept(
            affinities=matrices.affinities.data_ptr(),
            products=matrices.products.data_ptr(),
            statistics=statistics.data_ptr(),
            region_norms=norms.data_ptr(),
            pitch=pitch,
            height=height,
            first_tile=tiles.first,
        )
        found = similarities(chunk, words, score, plan, kept, regions, grams, unscale)
        kernels.coefficients(
            device_of(rows),
            kept,
            similarities=found.data_ptr(),
            lengths=texts.lengths.data_ptr(),
            columns=words.kept["columns"].data_ptr(),
            width=found.shape[1],
            images=count,
            texts=texts.starts.numel(),
            scale=score.word_scale,
            kind=getattr(kernels.Pool, score.pool),
            divide=score.pool_divide,
            grad_scores=grad_scores.data_ptr(),
            word_norms=words.norms.data_ptr(),
            unscale=unscale.data_ptr(),
            coefficients=factors.data_ptr(),
            tiles=tiles.tiles,
            attention_scale=0.0 if hard else score.attention_scale,
            cosine=cosine,
        )
        of_chunk = slice(tiles.first * kernels.WORDS, tiles.first * kernels.WORDS + pitch)
        of_words[of_chunk] += factors[kernels.OF_WORD].sum(0)
        # float16 takes what is brought to its range, by powers of two, and bfloat16 all.
        bound = None
        if rows.dtype == torch.float16:
            bound = power_of_two_above(factors[kernels.BOUND], 0, 1) / _LARGEST
            factors[[kernels.OF_AFFINITY, kernels.OF_PRODUCT]] /= bound
        kernels.gradient(
            device_of(rows),
            plan,
            kept,
            dtype_of(rows),
            gradient=matrices.gradient.data_ptr(),
            attention=matrices.attention.data_ptr(),
            coefficients=factors.data_ptr(),
            word_norms=words.norms.data_ptr(),
            region_lengths=chunk.lengths.data_ptr(),
            images=count,
            scale=exponent_scale(score),
            attention_scale=0.0 if hard else score.attention_scale,
            word_norm=getattr(kernels.WordNorm, score.word_norm),
            hard=hard,
            cosine=cosine,
        )
        gs = matrices.gradient.flatten(0, 1)
        _add_product(of_columns[of_chunk], gs.T, flat, bound)
        _add_product(of_regions.flatten(0, 1), gs, words.rows[of_chunk], bound)
        if grad_grams is not None:
            add_gram_gradient(grad_grams, matrices.attention, factors[kernels.OF_GRAM])
    if grad_grams is not None:
        # Only half of it is of each place: V receives it whole.
        block = torch.arange(side, device=rows.device) // kernels.ROWS
        grad_grams = torch.where(block[:, None] >= block, grad_grams, grad_grams.mT)[:, :height, :height]
        of_gram = power_of_two_above(grad_grams, 1, 2)[:, None, None]
        products = _products((grad_grams / of_gram).half(), regions[:, :height])[:, :, :dim]
        of_regions.addcmul_(products, of_gram / unscale[:, None, None])


def _runs(words: Words) -> _Runs:
    """Here alone the host waits for the device."""
    used = torch.cat([words.kept["counts"], words.kept["spans"]]).tolist()
    return _Runs(used[3 : 3 + used[0]], used[2])


def _chunks_of_tiles(runs: _Runs, tiles_at_once: int, device: torch.device) -> Iterator[_Tiles]:
    """Runs as many as fit, at least one."""
    spans, long_runs = runs
    cuts, tiles = [0], 0
    for run, span in enumerate(spans):
        if tiles and tiles + span > tiles_at_once:
            cuts.append(run)
            tiles = 0
        tiles += span
    ends = [*cuts[1:], len(spans)]
    counts = [
        [end - run, sum(spans[run:end]), max(0, min(end, long_runs) - run)] for run, end in zip(cuts, ends, strict=True)
    ]
    on_device = torch.tensor(counts, dtype=torch.int32).to(device)
    first = 0
    for run, end, of_chunk in zip(cuts, ends, on_device, strict=True):
        yield _Tiles(run, of_chunk, first, sum(spans[run:end]))
        first += sum(spans[run:end])


def _add_product(to: Tensor, a: Tensor, b: Tensor, factor: Tensor | None) -> None:
    """Add a product of matrices in 16 bits, times a factor, to a float32 sum: without a factor, in one kernel."""
    if factor is not None:
        to.addcmul_(_products(a, b), factor)
    elif a.is_cuda:
        torch.addmm(to, a, b, out_dtype=torch.float32, out=to)
    else:
        to.add_(_products(a, b))


def add_gram_gradient(to: Tensor, attention: Tensor, weights: Tensor) -> None:
    """Add what a chunk of words gives to gG, in its blocks on and below the diagonal.

    Args:
        to: (images, side, side) float32, with the side a multiple of 128.
        attention: (images, height, columns) float16, not normalized, with the height a multiple of 16, at most the
            side, and the columns one of 128.
        weights: (images, columns) float32, of each word's.
    """
    # float16 takes weights up to 1.
    factors = power_of_two_above(weights, 1)
    halves = (weights / factors[:, None]).half()
    loaded().gram_gradient(
        device_of(to),
        attention=attention.data_ptr(),
        weights=halves.data_ptr(),
        factors=factors.data_ptr(),
        sums=to.data_ptr(),
        pitch=attention.shape[2],
        images=to.shape[0],
        height=attention.shape[1],
        side=to.shape[1],
    )


def _products(a: Tensor, b: Tensor) -> Tensor:
    """Products of matrices in 16 bits, summed and given in float32."""
    if a.is_cuda:
        return (torch.mm if a.dim() == 2 else torch.bmm)(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()


def _put(to: Tensor, places: Tensor, rows: Tensor) -> None:
    """Writes packed rows to where they came from; those of padding, whose place is -1, nowhere."""
    sources = torch.full((to.shape[0] + 1,), -1, dtype=torch.int64, device=to.device)
    sources.scatter_(
        0, torch.where(places < 0, to.shape[0], places).long(), torch.arange(places.numel(), device=to.device)
    )
    sources = sources[:-1, None]
    found = rows.index_select(0, sources.clamp(min=0).squeeze(1))[:, : to.shape[1]]
    to.copy_(torch.where(sources < 0, to, found))
