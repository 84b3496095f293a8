"""Forward: the similarities of every word with every image, chunk by chunk of images, and their pooling."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gloria_ops.backends.cuda.device import device_of, dtype_of, empty, loaded, processors, zeros
from gloria_ops.backends.cuda.pack import STEP, Images, Words, longest, pack_images, pack_words, padded, scaled
from gloria_ops.score import LocalScore
from gloria_ops.tokens import Ragged

# Bytes of what is made for the images of one chunk (one image at least).
WORKSPACE_BYTES = 192 << 20
# With the symmetric half of G, |c|^2 through it is less work up to M = 1.8 D.
GRAM_UP_TO = 1.8
_LOG2E = 1.4426950408889634


def forward(images: Ragged, texts: Ragged, score: LocalScore) -> Tensor:
    """Scores (N, T) float32.

    Raises:
        NotImplementedError: more regions an image than the kernels take.
    """
    kernels, count, dim, most = loaded(), images.starts.numel(), images.rows.shape[1], longest(images)
    side = padded(most, kernels.ROWS)
    words = pack_words(texts)
    cosine = score.similarity == "cosine"
    by_gram = cosine and most <= GRAM_UP_TO * dim
    left_dim = padded(dim, kernels.ROWS) if cosine else 0
    each = side * (2 * padded(dim, STEP) + 2 * left_dim + 10 * side * by_gram) + 4 * words.tiles * kernels.WORDS
    at_once = max(1, min(count, WORKSPACE_BYTES // each))
    scores = empty(images.rows, count, texts.starts.numel(), dtype=torch.float32)
    for first in range(0, count, at_once):
        chunk = pack_images(images, slice(first, first + at_once), side)
        found = _similarities(chunk, words, score, by_gram, left_dim)
        kernels.pool(
            device_of(images.rows),
            similarities=found.data_ptr(),
            lengths=texts.lengths.data_ptr(),
            columns=words.kept["columns"].data_ptr(),
            scores=scores[first:].data_ptr(),
            width=words.tiles * kernels.WORDS,
            images=chunk.rows.shape[0],
            texts=texts.starts.numel(),
            scale=score.word_scale,
            kind=getattr(kernels.Pool, score.pool),
            mean=score.pool_mean,
            divide=score.pool_divide,
        )
    # Longer than the rows it could be given: there is no score of it.
    return scores.masked_fill_((images.lengths > most)[:, None], math.nan)


def _similarities(chunk: Images, words: Words, score: LocalScore, by_gram: bool, left_dim: int) -> Tensor:
    kept = loaded().Kept()
    if not left_dim:
        return similarities(chunk, words, score, words.plan(), kept, chunk.rows, None, chunk.norms)
    regions, unscale = scaled(chunk, left_dim)
    left = halved(gram(regions)).half() if by_gram else None
    return similarities(chunk, words, score, words.plan(), kept, regions, left, unscale)


def similarities(
    chunk: Images,
    words: Words,
    score: LocalScore,
    plan: object,
    kept: object,
    regions: Tensor,
    gram: Tensor | None,
    unscale: Tensor,
) -> Tensor:
    """The similarity of every column of the tiles with every image of the chunk.

    Args:
        plan: which tiles.
        kept: what backward wants besides; empty in forward.
        regions: for the cosine, those that the direct way multiplies by.
        gram: as `forward_sm80.h` wants it; None for the dot product, or where all goes the direct way.
        unscale: what the scale of `regions` and `gram` is undone by.
    """
    kernels, rows, cosine = loaded(), chunk.rows, score.similarity == "cosine"
    count, side, dim = rows.shape
    hard = math.isinf(score.attention_scale)
    off_chip = cosine and side > kernels.ON_CHIP * kernels.ROWS
    found = empty(rows, count, words.tiles * kernels.WORDS, dtype=torch.float32)
    cancelled = zeros(rows, 0 if gram is None else count * words.tiles, dtype=torch.uint8)
    attention = empty(rows, processors(rows) if off_chip else 0, side, kernels.WORDS, dtype=torch.float16)
    levels = empty(rows, processors(rows), side, 2, dtype=torch.float32)

    def run(norm: object, left: Tensor) -> None:
        kernels.forward(
            device_of(rows),
            plan,
            kept,
            dtype_of(rows),
            words=words.rows.data_ptr(),
            word_norms=words.norms.data_ptr(),
            regions=rows.data_ptr(),
            region_norms=chunk.norms.data_ptr(),
            region_lengths=chunk.lengths.data_ptr(),
            left=left.data_ptr(),
            unscale=unscale.data_ptr(),
            scratch=attention.data_ptr(),
            levels=levels.data_ptr(),
            similarities=found.data_ptr(),
            cancelled=cancelled.data_ptr(),
            images=count,
            side=side,
            dim=dim,
            left_dim=regions.shape[2],
            scale=exponent_scale(score),
            word_norm=getattr(kernels.WordNorm, score.word_norm),
            norm=norm,
            hard=hard,
        )

    if not cosine:
        run(kernels.Norm.none, regions)
    elif gram is None:
        run(kernels.Norm.direct, regions)
    else:
        run(kernels.Norm.gram, gram)
        run(kernels.Norm.direct_where_cancelled, regions)
    return found


def exponent_scale(score: LocalScore) -> float:
    """What logits are multiplied by in powers of two; 1 for the hard maximum."""
    return 1.0 if math.isinf(score.attention_scale) else score.attention_scale * _LOG2E


def gram(scaled: Tensor) -> Tensor:
    """The Gram matrices (images, side, side) in float32."""
    if scaled.is_cuda:
        return torch.bmm(scaled, scaled.mT, out_dtype=torch.float32)
    return scaled.float() @ scaled.float().mT


def halved(grams: Tensor) -> Tensor:
    """Blocks of 16 x 16 below the diagonal twice, above it zero: what forward multiplies by, in place."""
    block = torch.arange(grams.shape[1], device=grams.device) // 16
    return grams.mul_(1 + (block[:, None] > block).float() - (block[:, None] < block).float())
