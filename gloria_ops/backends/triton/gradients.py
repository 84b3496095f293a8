"""Backward: affinities and attention once more, then the gradients of both sides, chunk by chunk.

Chunks of images are the outer loop: the gradient of an image is a sum over the chunks of texts, which ends before the
next image begins; that of a word is added to chunk after chunk.
"""

import torch
from torch import Tensor

from gloria_ops.backends.triton import maximum, products
from gloria_ops.backends.triton.affinity import affinities
from gloria_ops.backends.triton.attention import attention
from gloria_ops.backends.triton.block_sizes import Choice, chosen_for
from gloria_ops.backends.triton.context import gram_products, grams
from gloria_ops.backends.triton.direct import direct_gradients
from gloria_ops.backends.triton.gradient import affinity_gradients
from gloria_ops.backends.triton.pool import weight_gradients, word_coefficients
from gloria_ops.backends.triton.problem import Problem
from gloria_ops.learnable import FIXED, Learnable
from gloria_ops.score import LocalScore
from gloria_ops.tokens import Ragged


def backward(
    grad_scores: Tensor,
    images: Ragged,
    texts: Ragged,
    score: LocalScore,
    choice: Choice | None = None,
    learnable: Learnable = FIXED,
    best: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Gradients of the rows of images and texts, and then of `learnable.given`, of their shape and dtype.

    `best`: as forward kept it. Rows that belong to no item get zeros, and so do their weights.

    Those of 16-bit words are summed, chunk after chunk of images, as the gradient itself and a bfloat16 rest (L_t, D),
    which together hold 17 bits at least: a float32 sum would take twice the memory.

    Raises:
        NotImplementedError: one image alone exceeds the workspace.
    """
    choice = choice or chosen_for(texts.rows.device, texts.rows.dtype, score)
    p = Problem(images, texts, score, choice, split=True, learnable=learnable)
    if p.hard:
        return maximum.gradients(p, grad_scores, best)
    rows, side, scratch, cosine = p.plan.capacity, p.side, p.precision.scratch, p.cosine
    at_once, grad_regions, grad_words, rest = products.sums_of_backward(p, _bytes_of_image(p))
    s = p.empty(p.rows, p.columns(at_once), dtype=p.precision.affinity)
    # Their gradient takes the place of the affinities.
    gs = s.view(scratch)
    a, h = (p.empty(p.rows, p.columns(at_once) if cosine else 0, dtype=scratch) for _ in range(2))
    of_images = at_once if cosine else 0
    g = p.empty(of_images, p.gram_side, p.gram_side, dtype=scratch)
    grad_grams = p.empty(products.GRAM_PARTS, of_images, p.gram_side, p.gram_side)
    sums = p.empty(p.columns(at_once), p.dim)
    weights, attention_scale, word_scale = p.learnable
    means = attention_scale is not None and score.word_norm != "none"
    found, lengths = p.found(at_once, means), p.empty(3, at_once, rows)
    coefficients = p.empty(9 if learnable.given else 7, at_once, rows)
    grad_weights = None if weights is None else torch.zeros_like(weights)
    # What is added up to the gradients of the scales: by program, and by score.
    of_attention, of_word = None, None
    if attention_scale is not None:
        of_attention = p.empty(at_once, p.planes(choice.gradient), p.programs).zero_()
    if word_scale is not None:
        of_word = torch.empty_like(grad_scores)
    levels = p.empty(at_once, p.plan.texts_at_once if score.word_norm != "none" else 0, side)
    for of_chunk in p.image_chunks(at_once):
        p.pack_regions(of_chunk)
        if cosine:
            grams(p, of_chunk, g, both=True)
        for number in range(p.plan.chunks):
            chunk = of_chunk._replace(number=number)
            affinities(p, chunk, s)
            attention(p, chunk, s, a, found, levels)
            if cosine:
                gram_products(p, chunk, a, g, found, h, lengths)
            word_coefficients(p, chunk, grad_scores, found, lengths[:2], coefficients, of_word)
            if grad_weights is not None:
                weight_gradients(p, chunk, coefficients[7], grad_weights)
            affinity_gradients(p, chunk, s, gs, a, h, lengths[2], coefficients, levels, of_attention)
            products.word_gradients(p, chunk, gs, coefficients, grad_words, rest)
            products.region_sums(p, chunk, gs, sums)
            if cosine:
                direct_gradients(p, chunk, a, coefficients[6], sums)
                products.gram_gradients(p, chunk, a, coefficients[3], grad_grams)
        products.finish(p, of_chunk, sums, grad_grams, grad_regions)
    grad_scales = (None if each is None else each.double().sum().float() for each in (of_attention, of_word))
    return grad_regions, grad_words, *Learnable(grad_weights, *grad_scales).given


def _bytes_of_image(p: Problem) -> int:
    """What is kept for one image in a chunk; all of it grows with their number."""
    rows, itemsize = p.plan.capacity, p.precision.scratch.itemsize
    affinities = (3 if p.cosine else 1) * rows * p.side * itemsize
    square = p.gram_side**2 * (itemsize + 4 * products.GRAM_PARTS) if p.cosine else 0
    levels = 4 * p.plan.texts_at_once * p.side if p.score.word_norm != "none" else 0
    # At most so many numbers of each word, fewer where nothing is learned.
    of_words = 4 * rows * (p.statistics + (20 if p.learnable.given else 10))
    return affinities + square + levels + of_words + 4 * p.side * p.dim + p.packed_bytes
