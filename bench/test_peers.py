"""Every peer computes what gloria_ops computes: scores and both gradients against the float64 reference."""

from __future__ import annotations

import pytest
import torch

from bench.cases import SMALL_CASES, Case, make_inputs
from bench.peers import bare_products, compiled, eager, fused, loop


@pytest.mark.parametrize("build", [loop, eager, compiled], ids=lambda build: build.__name__)
@pytest.mark.parametrize("case", SMALL_CASES, ids=lambda case: case.preset)
def test_peer_equals_the_reference_in_float64(case, build):
    inputs = make_inputs(case).to(torch.float64)
    truth, peer = fused(case, inputs, backend="reference"), build(case, inputs)
    expected, scores = (one.scores(*one.leaves) for one in (truth, peer))
    torch.testing.assert_close(scores, expected, rtol=1e-11, atol=1e-11)

    regions, words = torch.autograd.grad(expected, truth.leaves, inputs.grad_scores)
    peer_regions, peer_words = torch.autograd.grad(scores, peer.leaves, inputs.grad_scores)
    if build is loop:  # its users hold (N, D, h, w) and (N, D, W)
        peer_regions, peer_words = peer_regions.flatten(2).transpose(1, 2), peer_words.transpose(1, 2)
    torch.testing.assert_close(peer_regions, regions, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(peer_words, words, rtol=1e-10, atol=1e-10)


def test_bare_products_are_the_affinities_of_all_words_and_regions():
    case: Case = SMALL_CASES[0]
    inputs = make_inputs(case)
    by_word, by_region = (product() for product in bare_products(inputs).values())
    assert by_word.numel() == case.affinities
    torch.testing.assert_close(by_word.T, by_region)
    first_text = inputs.words[0, : inputs.lengths[0]] @ inputs.regions[-1].T
    torch.testing.assert_close(by_word[: inputs.lengths[0], -case.regions :], first_text)
