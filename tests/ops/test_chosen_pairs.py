"""Chosen pairs: the scores of the whole matrix and their gradients, whatever is chosen, without the others."""

import pytest
import torch
from problems import LEARNED_SCORES, PRESETS, problem
from tolerances import FLOAT32

from gloria_ops import local_pair_scores, local_scores, scored_chunks, scored_pairs

ONE = problem("random", images=5, texts=6, most_regions=12, most_words=7, width=8).to(torch.float32)
CHOSEN = {
    "one image": [[2, 4], [2, 0], [2, 5]],
    "one text": [[3, 1], [0, 1], [4, 1]],
    "any": [[0, 1], [4, 3], [1, 1], [0, 5], [2, 2]],
    "repeated": [[1, 2], [3, 4], [1, 2], [1, 2]],
    "none": [],
}


def pairs_of(chosen):
    return torch.tensor(CHOSEN[chosen], dtype=torch.int64).reshape(-1, 2)


def inputs(score, dtype):
    one = ONE.learning(score).to(dtype)
    learned = {name: value.float().requires_grad_() for name, value in one.learned.items()}
    return one.regions.clone().requires_grad_(), one.words.clone().requires_grad_(), learned


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["released", "scan_i2t", "maxsim", "smooth_max"])
@pytest.mark.parametrize("chosen", CHOSEN)
def test_they_are_those_of_the_whole_matrix(chosen, name, dtype, backend):
    score, pairs = LEARNED_SCORES[name], pairs_of(chosen)
    regions, words, learned = inputs(score, dtype)
    given = {"score": score, "backend": backend, **ONE.lengths, **learned}
    every, ours = local_scores(regions, words, **given), local_pair_scores(regions, words, pairs, **given)
    upstream = torch.rand(len(pairs), generator=torch.Generator().manual_seed(0))
    if backend == "cpu":
        assert torch.equal(ours, every[pairs[:, 0], pairs[:, 1]])
    torch.testing.assert_close(ours, every[pairs[:, 0], pairs[:, 1]], **FLOAT32)
    leaves = (regions, words, *learned.values())
    of_matrix = torch.zeros_like(every).index_put((pairs[:, 0], pairs[:, 1]), upstream, accumulate=True)
    expected = torch.autograd.grad(every, leaves, of_matrix)
    for gradient, other in zip(torch.autograd.grad(ours, leaves, upstream), expected, strict=True):
        # Rounded to the dtype once more in each call.
        atol = 1e-6 if dtype == torch.float32 else 2e-2 * other.abs().max().item()
        torch.testing.assert_close(gradient, other, rtol=1e-5, atol=atol)


@pytest.mark.parametrize("of", ["images", "texts"])
@pytest.mark.parametrize("name", ["released", "scan_i2t", "maxsim"])
def test_pairs_of_a_corpus_are_those_of_its_chunks(name, of):
    sides = {"images": ONE.regions, "texts": ONE.words}
    corpus = sides.pop(of)
    (queries,) = sides.values()
    pairs = torch.tensor([[3, 1], [0, 4], [0, 0], [3, 4]])
    scored = torch.cat([scores for _, scores in scored_chunks(queries, corpus, of=of, score=PRESETS[name])], dim=1)
    assert torch.equal(
        scored_pairs(queries, corpus, pairs, of=of, score=PRESETS[name]), scored[pairs[:, 0], pairs[:, 1]]
    )


REFUSED = {
    "an image beyond": (
        [[0, 0], [5, 0]],
        ValueError,
        r"pairs\[1\] is \(5, 0\); expected an image of 0 to 4 and a",
    ),
    "below zero": ([[0, -1]], ValueError, r"pairs\[0\] is \(0, -1\); expected an image of 0 to 4 and a text of 0 to 5"),
    "three columns": (
        [[0, 0, 0]],
        ValueError,
        r"pairs has the shape \(1, 3\); expected \(P, 2\), each row \(image",
    ),
    "floats": ([[0.0, 0.0]], TypeError, r"pairs is torch.float32; expected a \(P, 2\) integer tensor"),
}


@pytest.mark.parametrize(("pairs", "error", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_refused(pairs, error, message):
    with pytest.raises(error, match=message):
        local_pair_scores(ONE.regions, ONE.words, torch.tensor(pairs))


def test_a_query_beyond_is_refused():
    with pytest.raises(ValueError, match=r"pairs\[0\] is \(6, 0\); expected a query of 0 to 5 and an item of 0 to 4"):
        scored_pairs(ONE.words, ONE.regions, torch.tensor([[6, 0]]), of="images")
