"""Forward: the scores of all images with all texts, in one kernel or in stages, chunk by chunk."""

import math

from torch import Tensor

from gloria_ops.backends.triton.affinity import affinities
from gloria_ops.backends.triton.attention import attention
from gloria_ops.backends.triton.block_sizes import Choice, chosen_for
from gloria_ops.backends.triton.context import context_squares, grams
from gloria_ops.backends.triton.fused import fused
from gloria_ops.backends.triton.pool import pool_found, pool_similarities
from gloria_ops.backends.triton.problem import Problem
from gloria_ops.learnable import FIXED, Learnable
from gloria_ops.score import LocalScore
from gloria_ops.tokens import Ragged


def forward(
    images: Ragged,
    texts: Ragged,
    score: LocalScore,
    choice: Choice | None = None,
    learnable: Learnable = FIXED,
    best: Tensor | None = None,
) -> Tensor:
    """Scores (N_v, N_t) float32; `choice`: other blocks; `best` (N_v, L_t) of a hard maximum is filled."""
    choice = choice or chosen_for(texts.rows.device, texts.rows.dtype, score)
    in_one = choice.way == "fused" or math.isinf(score.attention_scale)
    problem = Problem(images, texts, score, choice, split=not in_one, learnable=learnable)
    scores = problem.empty(images.starts.numel(), texts.starts.numel())
    if in_one:
        _fused(problem, scores, best)
    else:
        _split(problem, scores)
    return scores


def _fused(p: Problem, scores: Tensor, best: Tensor | None) -> None:
    at_once = p.images_at_once(4 * p.plan.capacity + p.packed_bytes)
    u = p.empty(at_once, p.plan.capacity)
    for chunk in p.image_chunks(at_once):
        p.pack_regions(chunk)
        fused(p, chunk, u, None if best is None else best[chunk.first_image :])
        pool_similarities(p, chunk, u, scores)


def _split(p: Problem, scores: Tensor) -> None:
    rows, by_gram = p.plan.capacity, p.cosine and p.by_gram
    of_gram = p.gram_side**2 * p.precision.scratch.itemsize if by_gram else 0
    of_words = rows * (p.side * p.precision.affinity.itemsize + 4 * (p.statistics + 2))
    at_once = p.images_at_once(of_words + of_gram + p.packed_bytes)
    s = p.empty(p.rows, p.columns(at_once), dtype=p.precision.affinity)
    # The attention takes the place of the affinities.
    a = s.view(p.precision.scratch)
    g = p.empty(at_once, p.gram_side, p.gram_side, dtype=p.precision.scratch) if by_gram else None
    found, lengths = p.found(at_once), p.empty(2, at_once, rows)
    for images in p.image_chunks(at_once):
        p.pack_regions(images)
        if g is not None:
            grams(p, images, g, both=False)
        for number in range(p.plan.chunks):
            chunk = images._replace(number=number)
            affinities(p, chunk, s)
            attention(p, chunk, s, a, found, None)
            if p.cosine:
                context_squares(p, chunk, a, g, lengths)
            pool_found(p, chunk, found, lengths, scores)
