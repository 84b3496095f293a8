"""Launching the backward kernels: gs exists for one chunk of images and tiles at a time, in a fixed workspace."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from gloria_ops.backends.triton import tiles
from gloria_ops.backends.triton.backward_kernels import affinity_gradient_kernel, word_gradient_kernel
from gloria_ops.backends.triton.forward_kernel import forward_kernel
from gloria_ops.backends.triton.launch import Problem, gram, norms
from gloria_ops.backends.triton.products import finish_kernel, gram_gradient_kernel, regions_kernel, words_kernel
from gloria_ops.backends.triton.settings import programs

# Bytes of everything that is kept for one chunk of images; beyond LARGEST for a single image, backward refuses.
WORKSPACE_BYTES = 192 << 20
LARGEST_BYTES = 256 << 20
# A chunk of tiles ends where no text goes on.
TILES_AT_ONCE = tiles.LONGEST_RUN
_TL_DTYPES = {torch.bfloat16: tl.bfloat16, torch.float32: tl.float32}


def backward(p: Problem, grad_scores: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of regions and words, of their shape and dtype.

    Those of 16-bit words are summed, chunk after chunk of images, as the gradient itself and a bfloat16 rest (L_t, D),
    which together hold 17 bits at least: a float32 sum would take twice the memory.

    Raises:
        NotImplementedError: one image alone exceeds the workspace.
    """
    score, columns, dim, side = p.score, p.blocks.forward.columns, p.regions.shape[1], p.side
    images, texts, width = p.region_starts.numel(), p.word_starts.numel(), p.words.shape[0]
    cosine = score.similarity == "cosine"
    grad_regions = torch.zeros_like(p.regions)
    grad_words = torch.zeros_like(p.words)
    plan = tiles.slotted(p.word_starts, p.word_lengths, width, columns)
    word_norms = norms(p)
    at_once = min(images, _images_at_once(p))
    split = at_once < images and p.words.dtype != torch.float32
    rest = p.empty(*p.words.shape if split else (0,), dtype=torch.bfloat16).zero_()
    scratch = p.precision.scratch
    affinities = (at_once, TILES_AT_ONCE, side, columns)
    gradient = p.empty(*affinities, dtype=scratch)
    attended = p.empty(*affinities if cosine else (0,), dtype=scratch)
    grams = p.empty(at_once if cosine else 0, side, side, dtype=scratch)
    grad_grams = p.empty(at_once if cosine else 0, side, side)
    sums = p.empty(at_once, side, dim)
    word_statistics = p.empty(4, at_once, TILES_AT_ONCE, columns)
    coefficients = p.empty(5, at_once, TILES_AT_ONCE, columns)
    count = programs(p.regions.device, p.blocks)
    levels = p.empty(count, side)

    of_gradient, of_product, square = p.blocks.gradient, p.blocks.product, p.precision.square
    width_blocks, row_blocks = triton.cdiv(dim, of_product.columns), side // of_product.rows
    product = {"B": of_product.columns, "K": of_product.step, "PRECISION": square, **p.launch(of_product)}
    for first in range(0, images, at_once):
        chunk = min(at_once, images - first)
        sums.zero_()
        grad_grams.zero_()
        if cosine:
            gram(p, grams, first, chunk)
        for first_tile in range(0, plan.rows.shape[0], TILES_AT_ONCE):
            part = (first_tile, TILES_AT_ONCE)
            forward_kernel[(count,)](
                p.regions, p.region_starts, p.region_lengths, p.words, word_norms, *plan, grams, attended, levels,
                word_statistics, word_statistics, first, chunk, *part, p.longest, width, dim, side,
                p.scale, **p.constants(p.blocks.forward), BOUNDED=p.bounded, GRAM=True, KEEP=True,
            )  # fmt: skip
            word_gradient_kernel[(TILES_AT_ONCE, chunk)](
                grad_scores, word_norms, *plan, word_statistics, coefficients, first, chunk, texts, *part,
                score.word_scale, COSINE=cosine, POOL=score.pool, POOL_DIVIDE=score.pool_divide, C=columns,
            )  # fmt: skip
            affinity_gradient_kernel[(side // of_gradient.rows, TILES_AT_ONCE, chunk)](
                p.regions, p.region_starts, p.region_lengths, p.words, *plan, grams, attended, word_statistics,
                coefficients, gradient, first, chunk, *part, p.longest, dim, side, p.scale,
                **p.constants(of_gradient),
            )  # fmt: skip
            words_kernel[(width_blocks, TILES_AT_ONCE)](
                gradient, coefficients, p.regions, p.region_starts, p.region_lengths, p.words, plan.rows, plan.in_use,
                grad_words, rest, first, chunk, *part, p.longest, dim, side,
                COSINE=cosine, SPLIT=split, C=columns, **product,
            )  # fmt: skip
            regions_kernel[(width_blocks, row_blocks, chunk)](
                gradient, p.region_lengths, p.words, plan.rows, plan.in_use, sums, first, *part, p.longest, dim, side,
                R=of_product.rows, C=columns, **product,
            )  # fmt: skip
            if cosine:
                gram_gradient_kernel[(row_blocks, row_blocks, chunk)](
                    attended, coefficients, p.region_lengths, plan.rows, plan.in_use, grad_grams, first, chunk, *part,
                    p.longest, side, R=of_product.rows, C=columns,
                    **{name: value for name, value in product.items() if name != "B"},
                )  # fmt: skip
        finish_kernel[(width_blocks, row_blocks, chunk)](
            sums, grad_grams, p.regions, p.region_starts, p.region_lengths, grad_regions, first, p.longest, dim, side,
            COSINE=cosine, R=of_product.rows, SCRATCH=_TL_DTYPES[scratch], **product,
        )  # fmt: skip
    return grad_regions, grad_words


def _images_at_once(p: Problem) -> int:
    """Images of a chunk; all that is kept for it grows with them."""
    columns, itemsize = p.blocks.forward.columns, p.precision.scratch.itemsize
    affinities = 2 * TILES_AT_ONCE * p.side * columns * itemsize
    square = p.side * p.side * (itemsize + 4)
    one = affinities + square + 4 * p.side * p.regions.shape[1] + 9 * 4 * TILES_AT_ONCE * columns
    if one > LARGEST_BYTES:
        raise NotImplementedError(
            f"backend='triton' keeps {one >> 20} MiB for one image of {p.longest} regions in backward, beyond its "
            f"{LARGEST_BYTES >> 20} MiB; take fewer regions, or backend='reference'"
        )
    return max(1, WORKSPACE_BYTES // one)
