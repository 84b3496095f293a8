"""The peer to beat on a GPU: plain products by cuBLAS, and the backend's own kernels between them.

What a good engineer writes who leaves products to the library: S = T Vᵀ of some images by one large product into
memory, a kernel for both softmaxes and one for the contexts' lengths, and the same backwards. Chunks have a fixed
size, so memory does not grow with N², but every intermediate of a chunk goes through memory. Everything but the plain
products is the backend's: its plan, its packed rows, its attention, its Gram matrices; the two differ in nothing else.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gloria_ops import LocalScore
from gloria_ops.backends.triton import block_sizes, context, pool
from gloria_ops.backends.triton.attention import attention
from gloria_ops.backends.triton.direct import direct_gradients
from gloria_ops.backends.triton.gradient import affinity_gradients
from gloria_ops.backends.triton.problem import Chunk, Problem
from gloria_ops.tokens import Ragged

# Of the affinities of one chunk, in their dtype: some of them together stay in the second-level cache of an H100.
CHUNK_BYTES = 64 << 20


class ChunkedScores(torch.autograd.Function):
    """Scores (N, N_t) float32 of regions (N, M, D) and packed words (L, D), lengths (N_t,) on the device."""

    @staticmethod
    def forward(ctx: Any, regions: Tensor, words: Tensor, lengths: Tensor, score: LocalScore) -> Tensor:
        """Keep the inputs alone, and nothing of the size of the affinities."""
        ctx.save_for_backward(regions, words, lengths)
        ctx.score = score
        peer = Peer(regions, words, lengths, score)
        scores = peer.problem.empty(regions.shape[0], lengths.numel())
        for chunk in peer.chunks():
            found, lengths_of_words, *_ = peer.attend(chunk, backward=False)
            pool.pool_found(peer.problem, chunk, found, lengths_of_words[:2], scores)
        return scores

    @staticmethod
    def backward(ctx: Any, grad_scores: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Chunk by chunk again, the gradient of the words summed in float32."""
        regions, words, lengths = ctx.saved_tensors
        peer = Peer(regions, words, lengths, ctx.score)
        grad_regions = torch.empty_like(regions)
        grad_words = torch.zeros_like(words, dtype=torch.float32)
        for chunk in peer.chunks():
            peer.differentiate(chunk, grad_scores.contiguous(), grad_regions, grad_words)
        return grad_regions, grad_words.to(words.dtype), None, None


class Peer:
    """A batch whose texts lie densely, one after the other, in one chunk of all of them."""

    def __init__(self, regions: Tensor, words: Tensor, lengths: Tensor, score: LocalScore) -> None:
        images, count, width = regions.shape
        device, dtype = regions.device, regions.dtype
        starts = torch.arange(images, device=device) * count
        of_images = Ragged(regions.reshape(-1, width), starts, torch.full((images,), count, device=device))
        of_texts = Ragged(words, lengths.cumsum(0) - lengths, lengths)
        choice = block_sizes.chosen_for(device, dtype, score)._replace(way="split")
        self.problem = p = Problem(of_images, of_texts, score, choice, split=False)
        # cuBLAS stores a product as it is: in the dtype of its operands, and without norms.
        p.precision = p.precision._replace(affinity=p.precision.scratch)
        self.words = p.packed_words[: words.shape[0]]
        self.count, self.width = count, width
        of_image = p.side * words.shape[0] * p.precision.scratch.itemsize
        self.at_once = max(1, min(images, CHUNK_BYTES // of_image))

    def chunks(self) -> list[Chunk]:
        """Images that are taken at once."""
        return self.problem.image_chunks(self.at_once)

    def by_image(self, rows: Tensor, chunk: Chunk) -> Tensor:
        """(images, words, side) of what lies as (words, images * side)."""
        p = self.problem
        return rows[: len(self.words), : chunk.images * p.side].unflatten(1, (chunk.images, p.side)).transpose(0, 1)

    def attend(self, chunk: Chunk, backward: bool) -> tuple[Tensor, ...]:
        """Statistics of the attention, lengths of the contexts (3, images, words), S, attention, G a, and levels."""
        p = self.problem
        p.pack_regions(chunk)
        affinities = p.empty(p.rows, p.columns(chunk.images), dtype=p.precision.scratch)
        torch.matmul(self.words, chunk.packed_regions[: affinities.shape[1]].T, out=affinities[: len(self.words)])
        attended = torch.empty_like(affinities) if backward and p.cosine else affinities
        found, lengths = p.found(chunk.images), p.empty(3, chunk.images, len(self.words))
        levels = p.empty(chunk.images, p.plan.texts_at_once, p.side)
        attention(p, chunk, affinities, attended, found, levels if backward else None)
        products = affinities
        if p.cosine:
            grams = p.empty(chunk.images, p.gram_side, p.gram_side, dtype=p.precision.scratch)
            context.grams(p, chunk, grams, both=backward)
            if backward:
                products = torch.empty_like(attended)
                context.gram_products(p, chunk, attended, grams, found, products, lengths)
            else:
                context.context_squares(p, chunk, attended, grams if p.by_gram else None, lengths[:2])
        return found, lengths, affinities, attended, products, levels

    def differentiate(self, chunk: Chunk, grad_scores: Tensor, grad_regions: Tensor, grad_words: Tensor) -> None:
        """Write the gradient of these images, and add to that of the words."""
        p = self.problem
        found, lengths, affinities, attended, products, levels = self.attend(chunk, backward=True)
        coefficients = p.empty(7, chunk.images, len(self.words))
        pool.word_coefficients(p, chunk, grad_scores, found, lengths[:2], coefficients)
        affinity_gradients(p, chunk, affinities, affinities, attended, products, lengths[2], coefficients, levels)
        gradient = affinities[: len(self.words), : chunk.images * p.side]
        regions = chunk.packed_regions[: chunk.images * p.side]
        grad_words += (gradient @ regions)[:, : self.width]
        of_regions = (gradient.T @ self.words).view(chunk.images, p.side, p.dim)
        if p.cosine:
            grad_words += (coefficients[4].sum(0)[:, None] * self.words)[:, : self.width]
            weighted = self.by_image(attended, chunk) * coefficients[3].unsqueeze(2)
            grad_grams = weighted.to(attended.dtype).transpose(1, 2) @ self.by_image(attended, chunk)
            of_regions = torch.baddbmm(of_regions, grad_grams, regions.view(chunk.images, p.side, p.dim))
            of_contexts = p.empty(*regions.shape).zero_()
            direct_gradients(p, chunk, attended, coefficients[6], of_contexts)
            of_regions += of_contexts.view_as(of_regions)
        last = chunk.first_image + chunk.images
        grad_regions[chunk.first_image : last] = of_regions[:, : self.count, : self.width]
