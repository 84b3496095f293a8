"""What the fused score is compared with: the code that people run today, and the bare matrix product as the limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import psutil
import torch
from torch import Tensor
from torch.nn import functional as F

from bench.cases import Case, Inputs
from gloria_ops import LocalScore, local_scores


@dataclass(frozen=True)
class Contender:
    """Something that turns two leaf tensors, laid out as its users hold them, into scores (N images, N texts)."""

    name: str
    regions: Tensor
    words: Tensor
    scores: Callable[[Tensor, Tensor], Tensor]

    @property
    def leaves(self) -> tuple[Tensor, Tensor]:
        return self.regions, self.words


Builder = Callable[[Case, Inputs], Contender]


def fused(case: Case, inputs: Inputs, backend: str) -> Contender:
    """gloria_ops by a named backend, so that a missing one raises instead of being timed as another."""

    def scores(regions: Tensor, words: Tensor) -> Tensor:
        return local_scores(regions, words, word_lengths=inputs.lengths, score=case.score, backend=backend)

    return contender("fused", inputs.regions, inputs.words, scores)


def loop(case: Case, inputs: Inputs) -> Contender:
    """The released algorithm in its own layout: regions (N, D, h, w), words (N, D, W), a Python loop over the texts.

    Each text is repeated for every image; two batched products, the softmax over words and the one over regions, a
    cosine and a log-sum-exp follow, with the copies between layouts that the original makes. The `paper` preset runs in
    the same loop.
    """
    regions = inputs.regions.transpose(1, 2).reshape(case.batch, case.width, case.side, case.side)
    words = inputs.words.transpose(1, 2).contiguous()

    return contender("loop", regions, words, partial(loop_scores, lengths=inputs.lengths, score=case.score))


def loop_scores(regions: Tensor, words: Tensor, lengths: Sequence[int], score: LocalScore) -> Tensor:
    """Scores (N, N) of regions (N, D, h, w) with words (N, D, W), text by text."""
    texts = (words[text, :, :length] for text, length in enumerate(lengths))
    return torch.cat([_text_scores(regions, text, score) for text in texts], dim=1)


def _text_scores(regions: Tensor, text: Tensor, score: LocalScore) -> Tensor:
    """Scores (N, 1) of all images (N, D, h, w) with one text (D, W), one tensor for every step of the formula."""
    images, width, words = len(regions), regions.shape[1], text.shape[1]
    query = text.unsqueeze(0).contiguous().repeat(images, 1, 1)
    context = regions.view(images, width, -1)

    attention = torch.bmm(context.transpose(1, 2).contiguous(), query)
    if score.word_norm == "softmax":
        attention = torch.softmax(attention.view(-1, words), dim=-1).view(images, -1, words)
    attention = attention.transpose(1, 2).contiguous().view(images * words, -1)
    attention = torch.softmax(attention * score.attention_scale, dim=-1).view(images, words, -1)
    weighted = torch.bmm(context, attention.transpose(1, 2).contiguous())

    query = query.transpose(1, 2).contiguous().view(images * words, width)
    weighted = weighted.transpose(1, 2).contiguous().view(images * words, width)
    similarity = (query * weighted).sum(dim=1)
    if score.similarity == "cosine":
        norms = torch.linalg.vector_norm(query, dim=1) * torch.linalg.vector_norm(weighted, dim=1)
        similarity = similarity / norms.clamp(min=1e-8)
    pooled = (similarity.view(images, words) * score.word_scale).exp().sum(dim=1, keepdim=True).log()
    return pooled / score.word_scale if score.pool_divide else pooled


def _vectorized_scores(regions: Tensor, words: Tensor, present: Tensor, score: LocalScore) -> Tensor:
    """Every image with every text at once: affinity (N, N, W, M) by one einsum, words masked by `present` (N, W)."""
    affinity = torch.einsum("vmd,twd->vtwm", regions, words)
    weights = affinity
    if score.word_norm == "softmax":
        weights = affinity.masked_fill(~present[:, :, None], float("-inf")).softmax(dim=2)
    weights = (weights * score.attention_scale).softmax(dim=-1)
    if score.similarity == "cosine":
        context = torch.einsum("vtwm,vmd->vtwd", weights, regions)
        similarity = F.cosine_similarity(context, words, dim=-1, eps=1e-8)
    else:  # the context is not needed: <c_i, t_i> is the attention's mean of the affinity
        similarity = (weights * affinity).sum(dim=-1)
    pooled = torch.logsumexp((similarity * score.word_scale).masked_fill(~present, float("-inf")), dim=-1)
    return pooled / score.word_scale if score.pool_divide else pooled


def eager(case: Case, inputs: Inputs) -> Contender:
    """The formula over padded words in a few large tensors, as a careful PyTorch user writes it."""
    device = inputs.words.device
    lengths = torch.tensor(inputs.lengths, device=device)
    present = torch.arange(inputs.words.shape[1], device=device) < lengths[:, None]

    def scores(regions: Tensor, words: Tensor) -> Tensor:
        return _vectorized_scores(regions, words, present, case.score)

    return contender("eager", inputs.regions, inputs.words, scores)


def compiled(case: Case, inputs: Inputs) -> Contender:
    """`eager` under torch.compile with its defaults, for this shape alone: the best that a static batch allows it.

    `fullgraph` makes it raise where it would otherwise run a part uncompiled.
    """
    plain = eager(case, inputs)
    return contender(
        "compiled", inputs.regions, inputs.words, torch.compile(plain.scores, dynamic=False, fullgraph=True)
    )


def bare_products(inputs: Inputs) -> dict[str, Callable[[], Tensor]]:
    """T Vᵀ and V Tᵀ over all real words and regions, into memory that is already there; the faster one is the limit."""
    words, regions = inputs.packed_words, inputs.regions.flatten(0, 1)
    by_word, by_region = words.new_empty(len(words), len(regions)), words.new_empty(len(regions), len(words))
    return {
        "T Vᵀ": lambda: torch.matmul(words, regions.T, out=by_word),
        "V Tᵀ": lambda: torch.matmul(regions, words.T, out=by_region),
    }


def needed_bytes(name: str, case: Case, dtype: torch.dtype) -> int:
    """Roughly what a contender allocates: about seven tensors of N·N·W·M and four of N·N·W·D.

    That is what `eager` was measured to peak at. The loop has them for real words alone, and the fused score has none.
    """
    if name == "fused":
        return 0
    words = sum(case.lengths) if name == "loop" else case.batch * max(case.lengths)
    return case.batch * words * (7 * case.regions + 4 * case.width) * dtype.itemsize


def does_not_fit(name: str, case: Case, dtype: torch.dtype) -> str | None:
    """Why a contender is left out on this machine, as it is now; None if its memory is there."""
    needed = needed_bytes(name, case, dtype)
    fits = needed <= 0.8 * psutil.virtual_memory().available
    return None if fits else f"does not fit: about {needed / 2**30:.0f} GiB"


def contender(name: str, regions: Tensor, words: Tensor, scores: Callable[[Tensor, Tensor], Tensor]) -> Contender:
    """Copies of the tensors as leaves, and what makes scores of them."""
    regions, words = (leaf.detach().clone().requires_grad_() for leaf in (regions, words))
    return Contender(name, regions, words, scores)
