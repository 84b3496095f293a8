"""Times late interaction (MaxSim) beside eager PyTorch and the peers that are installed, and re-ranking of a corpus."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.lengths import draw_lengths
from bench.timing import Sampler, interleave, ratio, sample_step
from gloria_ops import LocalScore, local_scores, scored_chunks, scored_pairs
from gloria_ops.dropin.sentence_transformers import colbert_scores

Row = dict[str, Any]
Step = Callable[[], object]

WIDTH = 128
MAXSIM, RELEASED = LocalScore.maxsim(), LocalScore.released()
ALLOWANCE = 20.0  # seconds of one contender in one case


@dataclass(frozen=True)
class Case:
    """Queries of 32 tokens and documents; with `learns` the contrastive loss of as many of both, and its gradients."""

    queries: int
    documents: int
    tokens: int  # of a document
    learns: bool


CASES = (Case(64, 64, 180, True), Case(32, 32, 1030, True), Case(1, 1000, 300, False))
SMALL_CASES = (Case(3, 3, 12, True), Case(1, 4, 9, False))


def eager(queries: Tensor, documents: Tensor) -> Tensor:
    """Scores (Q, N), written out."""
    return torch.einsum("qtd,nsd->qnts", queries, documents).amax(dim=-1).sum(dim=-1)


def fused(queries: Tensor, documents: Tensor, backend: str) -> Tensor:
    """The same by gloria_ops: a query's tokens are words, a document's are regions."""
    return local_scores(documents, queries, score=MAXSIM, backend=backend).T


def peers(case: Case) -> dict[str, Callable[[Tensor, Tensor], Tensor] | None]:
    """Those that have such a case; None = not installed."""
    if not case.learns:
        scores = _imported("maxsim_cpu", "maxsim_scores")
        return {
            "maxsim-cpu": scores and (lambda queries, documents: scores(queries[0].numpy(), documents.numpy())),
        }
    scores = _imported("sentence_transformers.multi_vector_encoder.scoring", "colbert_scores")
    return {
        "sentence-transformers": scores and partial(as_its_loss, scores),
        "its drop-in": partial(as_its_loss, colbert_scores),
    }


def as_its_loss(scores: Callable[..., Tensor], queries: Tensor, documents: Tensor) -> Tensor:
    """Scores as MultiVectorMultipleNegativesRankingLoss asks for them: documents in groups, and masks always."""
    masks = [torch.ones(each.shape[:-1], dtype=torch.bool) for each in (queries, documents[:, None])]
    return scores(queries, documents[:, None], queries_mask=masks[0], documents_mask=masks[1])


def steps(case: Case, backend: str) -> dict[str, Step | None]:
    """One step of each contender: scores, or the loss and its gradients; None = not installed."""
    generator = torch.Generator().manual_seed(0)
    sides = [
        F.normalize(torch.randn(count, tokens, WIDTH, generator=generator), dim=-1).requires_grad_(case.learns)
        for count, tokens in ((case.queries, 32), (case.documents, case.tokens))
    ]
    contenders = {"fused": partial(fused, backend=backend), "eager": eager, **peers(case)}

    def step(scores: Callable[[Tensor, Tensor], Tensor]) -> object:
        if not case.learns:
            return scores(*sides)
        loss = F.cross_entropy(scores(*sides), torch.arange(case.queries))
        return torch.autograd.grad(loss, sides)

    return {name: scores and partial(step, scores) for name, scores in contenders.items()}


def rerank_steps(texts: int, pairs: int, backend: str) -> dict[str, Step]:
    """One image with chosen texts of a corpus: read where they lie, or gathered and then scored."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor(draw_lengths(texts))
    offsets = F.pad(lengths.cumsum(0), (1, 0))
    words = torch.randn(int(offsets[-1]), WIDTH, generator=generator) * WIDTH**-0.25
    image = torch.randn(1, 196, WIDTH, generator=generator) * WIDTH**-0.25
    chosen = torch.randperm(texts, generator=generator)[:pairs].sort().values
    settings: dict[str, Any] = {"of": "texts", "score": RELEASED, "backend": backend}

    def in_place() -> Tensor:
        listed = torch.stack([torch.zeros_like(chosen), chosen], dim=1)
        return scored_pairs(image, words, listed, corpus_offsets=offsets, **settings)

    def gathered() -> Tensor:
        own = lengths[chosen]
        ends = own.cumsum(0)
        places = torch.arange(int(ends[-1])) + (offsets[chosen] - ends + own).repeat_interleave(own)
        found = scored_chunks(image, words[places], corpus_offsets=F.pad(ends, (1, 0)), **settings)
        return torch.cat([scores for _, scores in found], dim=1)[0]

    return {"chosen pairs": in_place, "gathered": gathered}


def measure(cases: tuple[Case, ...], *, backend: str, rounds: int, texts: int, pairs: int) -> list[Row]:
    """A row for each contender of each case, and for both ways to re-rank, all from the same rounds."""
    problems = {_label(case): steps(case, backend) for case in cases}
    problems[f"re-rank {pairs} of {texts}"] = dict(rerank_steps(texts, pairs, backend))
    samplers: dict[tuple[str, str], Sampler] = {
        (label, name): partial(sample_step, step)
        for label, built in problems.items()
        for name, step in built.items()
        if step
    }
    samples = interleave(samplers, rounds=rounds, allowance=lambda key: ALLOWANCE, warm_up=lambda key: True)
    rows: list[Row] = []
    for label, built in problems.items():
        ours = samples[label, next(iter(built))]["forward"]
        for name in built:
            row: Row = {"case": label, "contender": name}
            if (label, name) not in samples:
                rows.append(row | {"left_out": "not installed"})
                continue
            times = samples[label, name]["forward"]
            figures = {"ms": 1e3 * median(times), "per_fused": ratio(times, ours)}
            rows.append(row | figures | {"rounds_ms": [1e3 * seconds for seconds in times]})
    return rows


def _label(case: Case) -> str:
    sizes = asdict(case)
    what = "loss and gradients" if sizes.pop("learns") else "scores"
    return f"{what}, {' x '.join(map(str, sizes.values()))}"


def _imported(module: str, name: str) -> Any:
    try:
        return getattr(import_module(module), name)
    except ImportError:
        return None
