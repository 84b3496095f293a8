"""The GPU benchmark's peer `chunked`, interpreted: it computes the scores and gradients that it is timed for."""

import pytest
import torch

from bench import chunked
from gloria_ops import LocalScore, local_scores


@pytest.mark.parametrize("score", [LocalScore.released(), LocalScore.paper(0.3, 0.2)], ids=["released", "paper"])
@pytest.mark.parametrize("images_at_once", [1, 2, 5])
def test_chunked_computes_the_score(score, images_at_once, monkeypatch):
    random = torch.Generator().manual_seed(0)
    lengths = torch.tensor([3, 12, 1, 7])
    regions = torch.randn(5, 11, 24, generator=random).div(2).requires_grad_()
    words = torch.randn(int(lengths.sum()), 24, generator=random).div(2).requires_grad_()
    grad_scores = torch.randn(5, 4, generator=random)
    monkeypatch.setattr(chunked, "CHUNK_BYTES", images_at_once * 16 * words.shape[0] * 4)
    scores = chunked.ChunkedScores.apply(regions, words, lengths, score)
    offsets = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    double = [each.detach().double().requires_grad_() for each in (regions, words)]
    truth = local_scores(*double, word_offsets=offsets, score=score, backend="reference")
    torch.testing.assert_close(scores.double(), truth, rtol=1e-5, atol=1e-5)
    found = torch.autograd.grad(scores, (regions, words), grad_scores)
    for gradient, expected in zip(found, torch.autograd.grad(truth, double, grad_scores.double()), strict=True):
        torch.testing.assert_close(gradient.double(), expected, rtol=1e-4, atol=1e-5)
