"""A drop-in against the algorithm that it replaces, written plainly: float64 to rounding, float32 as right as eager."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from kernel_checks import assert_as_accurate
from tolerances import ANY_SHAPE, FLOAT64
from torch import Tensor

Function = Callable[..., tuple[Tensor, ...]]


def assert_replaces(ours: Function, plain: Function, *inputs: Tensor) -> None:
    """Results, and gradients of their sum with random weights, of two functions of the same float64 inputs."""
    mine, truth = (_results_and_gradients(each, inputs) for each in (ours, plain))
    for found, expected in zip(mine, truth, strict=True):
        torch.testing.assert_close(found, expected, **FLOAT64)
    single = [each.float() for each in inputs]
    rounded = [each.double() for each in single]
    names = ["results", *(f"grad_{place}" for place in range(len(inputs)))]
    assert_as_accurate(
        _results_and_gradients(ours, single),
        _results_and_gradients(plain, single),
        _results_and_gradients(plain, rounded),
        slack=ANY_SHAPE,
        names=names,
    )


def _results_and_gradients(function: Function, inputs: list[Tensor]) -> list[Tensor]:
    leaves = [each.detach().clone().requires_grad_() for each in inputs]
    results = torch.cat([each.reshape(-1) for each in function(*leaves)])
    weights = torch.randn(len(results), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return [results.detach(), *torch.autograd.grad(results, leaves, weights.to(results.dtype))]


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Of two vectors."""
    return (a * b).sum() / (a.norm() * b.norm()).clamp(min=1e-8)


def plain_attention(words: Tensor, regions: Tensor, temp1: float) -> tuple[Tensor, Tensor]:
    """One text (D, W) and one image (D, M): softmax over words, then regions; contexts (D, W), attention (W, M)."""
    over_words = F.softmax(regions.T @ words, dim=1)
    attention = F.softmax(temp1 * over_words.T, dim=1)
    return regions @ attention.T, attention


def plain_local_scores(images: Tensor, words: Tensor, lengths: list[int], temp1=4.0, temp2=5.0, agg="sum") -> Tensor:
    """GLoRIA's and AttnGAN's log of the sum over words of exp(temp2 cosine): images (B, D, h, w), words (B, D, L)."""
    rows = []
    for image in images.flatten(2):
        row = []
        for words_of_one, length in zip(words, lengths, strict=True):
            text = words_of_one[:, :length]
            contexts, _ = plain_attention(text, image, temp1)
            terms = torch.stack([torch.exp(temp2 * cosine(c, t)) for c, t in zip(contexts.T, text.T, strict=True)])
            row.append(torch.log(terms.sum() if agg == "sum" else terms.mean()))
        rows.append(torch.stack(row))
    return torch.stack(rows)


def plain_cosines(images: Tensor, texts: Tensor) -> Tensor:
    """(N, N), of whole images and texts."""
    return torch.stack([torch.stack([cosine(v, t) for t in texts]) for v in images])


def plain_cross_entropies(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Of rows and of columns, the diagonal being right; one for each item."""
    return tuple(torch.stack([row.logsumexp(0) - row[i] for i, row in enumerate(each)]) for each in (logits, logits.T))


def plain_hinge(scores: Tensor, margin: float, hardest: bool) -> Tensor:
    """VSE++'s: every score must be below that of its row's pair, and of its column's, by the margin."""
    total, count = scores.new_zeros(()), len(scores)
    for i in range(count):
        others = [j for j in range(count) if j != i]
        for line in (scores[i], scores[:, i]):
            costs = [(margin + line[j] - scores[i, i]).clamp(min=0) for j in others]
            total = total + (max(costs) if hardest else sum(costs))
    return total
