"""What does a call cost before there is any work? One image, one word: Python, checks and torch's dispatcher."""

from __future__ import annotations

import pytest
import torch

from gloria_ops import local_scores


@pytest.mark.parametrize("with_backward", [False, True], ids=["forward", "full"])
def test_call_overhead(with_backward, timed, backend, rows, benchmark):
    regions = torch.ones(1, 1, 8, requires_grad=with_backward)
    words = torch.ones(1, 1, 8, requires_grad=with_backward)

    def call() -> torch.Tensor:
        scores = local_scores(regions, words, backend=backend)
        if with_backward:
            torch.autograd.grad(scores.sum(), (regions, words))
        return scores

    # The preset multiplies a cosine of 1 by 5 and takes the logarithm of the exponential.
    torch.testing.assert_close(benchmark(call).detach(), torch.tensor([[5.0]]))
    if timed:
        name = "forward+backward" if with_backward else "forward"
        rows.setdefault("overhead", []).append({"call": name, "microseconds": 1e6 * benchmark.stats.stats.median})
