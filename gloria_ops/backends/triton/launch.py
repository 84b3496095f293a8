"""Launching the forward kernels: images in chunks, so that what lies between the kernels has a fixed size."""

import math
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from gloria_ops.backends.triton import tiles
from gloria_ops.backends.triton.forward_kernel import BOUNDED_SCALE, forward_kernel
from gloria_ops.backends.triton.gram_kernel import gram_kernel
from gloria_ops.backends.triton.pool_kernel import pool_kernel
from gloria_ops.backends.triton.settings import INTERPRETED, Blocks, Choice, Precision, blocks, precision, programs
from gloria_ops.score import LocalScore

# Bytes of the Gram matrices, and of the similarities, of one chunk of images (one image at least).
GRAM_BYTES = 64 << 20
SIMILARITY_BYTES = 32 << 20
# With the symmetric half of G, |c|^2 through it is less work up to M = 1.8 D.
GRAM_UP_TO = 1.8


class Problem(NamedTuple):
    """The canonical tensors, and what follows from their shapes.

    longest: rows of `regions` for each image, the bound of its length.
    side: that, in whole blocks of every kernel.
    """

    regions: Tensor
    region_starts: Tensor
    region_lengths: Tensor
    words: Tensor
    word_starts: Tensor
    word_lengths: Tensor
    score: LocalScore
    blocks: Choice
    precision: Precision
    longest: int
    side: int

    def constants(self, blocks: Blocks) -> dict[str, object]:
        """What a kernel with R regions x C words is specialised for."""
        score = self.score
        cosine = score.similarity == "cosine"
        return {
            "NORM": score.word_norm,
            "HARD": math.isinf(score.attention_scale),
            "COSINE": cosine,
            "R": blocks.rows,
            "C": blocks.columns,
            "K": blocks.step,
            "PRECISION": self.precision.affinity,
            "SQUARE_PRECISION": self.precision.square,
            **self.launch(blocks),
        }

    @property
    def bounded(self) -> bool:
        """Whether the attention needs no maximum, since what it is a softmax of lies in [-1, 1]."""
        score = self.score
        normed = score.similarity == "cosine" and score.word_norm != "none"
        return normed and score.attention_scale <= BOUNDED_SCALE

    def launch(self, blocks: Blocks) -> dict[str, object]:
        """What every kernel with a product is launched with."""
        upcast = INTERPRETED and self.regions.dtype == torch.bfloat16
        return {"UPCAST": upcast, "num_warps": blocks.warps, "num_stages": blocks.stages}

    @property
    def scale(self) -> float:
        """The attention scale; 0 for the hard maximum, which takes none."""
        return self.score.attention_scale if math.isfinite(self.score.attention_scale) else 0.0

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Scratch on the device."""
        return torch.empty(shape, dtype=dtype, device=self.regions.device)


def problem(
    regions: Tensor,
    region_starts: Tensor,
    region_lengths: Tensor,
    words: Tensor,
    word_starts: Tensor,
    word_lengths: Tensor,
    score: LocalScore,
    choice: Choice | None = None,
) -> Problem:
    """The problem; every image must own at most L_v // N_v rows, as padded images do. `choice`: other blocks."""
    chosen = choice or blocks(regions.device, regions.dtype, score)
    longest = regions.shape[0] // region_starts.numel()
    side = triton.cdiv(longest, chosen.rows) * chosen.rows
    return Problem(
        regions.contiguous(),
        region_starts.contiguous(),
        region_lengths.contiguous(),
        words.contiguous(),
        word_starts.contiguous(),
        word_lengths.contiguous(),
        score,
        chosen,
        precision(regions.dtype),
        longest,
        side,
    )


def forward(p: Problem) -> Tensor:
    """Scores (N_v, N_t) float32."""
    score, columns, dim = p.score, p.blocks.forward.columns, p.regions.shape[1]
    images, texts, width = p.region_starts.numel(), p.word_starts.numel(), p.words.shape[0]
    plan_of = tiles.dense if score.word_norm == "none" else tiles.slotted
    plan = plan_of(p.word_starts, p.word_lengths, width, columns)
    cosine = score.similarity == "cosine"
    by_gram = cosine and p.longest <= GRAM_UP_TO * dim
    word_norms = norms(p)
    at_once = max(1, min(images, SIMILARITY_BYTES // (4 * width)))
    if by_gram:
        at_once = max(1, min(at_once, GRAM_BYTES // (p.side * p.side * p.precision.scratch.itemsize)))
    grams = p.empty(at_once if by_gram else 0, p.side, p.side, dtype=p.precision.scratch)
    count = programs(p.regions.device, p.blocks)
    attended = p.empty(count if cosine else 0, p.side, columns, dtype=p.precision.scratch)
    levels = p.empty(count, p.side)
    statistics = p.empty(4, count, columns)
    similarities = p.empty(at_once, width)
    scores = p.empty(images, texts)
    for first in range(0, images, at_once):
        chunk = min(at_once, images - first)
        if by_gram:
            gram(p, grams, first, chunk)
        forward_kernel[(count,)](
            p.regions, p.region_starts, p.region_lengths, p.words, word_norms, *plan, grams, attended, levels,
            similarities, statistics, first, chunk, 0, plan.rows.shape[0], p.longest, width, dim, p.side,
            p.scale, **p.constants(p.blocks.forward), BOUNDED=p.bounded, GRAM=by_gram, KEEP=False,
        )  # fmt: skip
        pool_kernel[(texts, chunk)](
            similarities, p.word_starts, p.word_lengths, scores, first, texts, width, tiles.LONGEST_RUN * columns,
            score.word_scale, POOL=score.pool, POOL_MEAN=score.pool_mean, POOL_DIVIDE=score.pool_divide, C=128,
        )  # fmt: skip
    return scores


def gram(p: Problem, grams: Tensor, first: int, images: int) -> None:
    """Fills the Gram matrices of `images` images from `first` on."""
    own = p.blocks.product
    side = p.side // own.rows
    gram_kernel[(side, side, images)](
        p.regions, p.region_starts, p.region_lengths, grams, first, p.longest, p.regions.shape[1], p.side,
        R=own.rows, K=own.step, PRECISION=p.precision.affinity, **p.launch(own),
    )  # fmt: skip


def norms(p: Problem) -> Tensor:
    """|t| of every row of words (L_t,), for the cosine."""
    return torch.linalg.vector_norm(p.words, dim=1, dtype=torch.float32)
