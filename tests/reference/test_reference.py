"""The reference against the formulas written once more, one number at a time, and derivatives against differences."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import EVERY_SCORE, LEARNED_SCORES, PRESETS, SCAN_NORMS, problem
from tolerances import FLOAT64

from gloria_ops import LocalScore, local_scores, reference
from gloria_ops.tokens import Ragged

EVERYTHING = EVERY_SCORE | SCAN_NORMS


def one_number_at_a_time(words, regions, score, weights=None):
    """Z of one text (W, D) with one image (M, D), both lists of lists of floats."""
    weights = weights or [1.0] * len(words)
    affinity = [[sum(a * b for a, b in zip(t, v, strict=True)) for v in regions] for t in words]
    columns = [normalized([row[j] for row in affinity], score.word_norm) for j in range(len(regions))]
    similarities = []
    for i, word in enumerate(words):
        if score.similarity == "smooth_max":
            similarities.append(smooth_maximum(affinity[i], score.attention_scale))
            continue
        attention = attention_of([column[i] for column in columns], score.attention_scale)
        context = [sum(a * v[d] for a, v in zip(attention, regions, strict=True)) for d in range(len(word))]
        dot = sum(a * b for a, b in zip(context, word, strict=True))
        length = math.hypot(*context) * math.hypot(*word)
        similarities.append(dot if score.similarity == "dot" else dot / max(length, 1e-8))
    if score.pool == "max":
        return max(similarities)
    if score.pool == "softmax":
        weights = [w * math.exp(score.word_scale * u) for w, u in zip(weights, similarities, strict=True)]
    if score.pool != "logsumexp":
        total = sum(w * u for w, u in zip(weights, similarities, strict=True))
        return total if score.pool == "sum" else total / sum(weights)
    total = sum(w * math.exp(score.word_scale * u) for w, u in zip(weights, similarities, strict=True))
    logarithm = math.log(total / sum(weights) if score.pool_mean else total)
    return logarithm / score.word_scale if score.pool_divide else logarithm


def normalized(column, word_norm):
    if word_norm == "none":
        return column
    if word_norm == "softmax":
        total = sum(math.exp(s) for s in column)
        return [math.exp(s) / total for s in column]
    if "clipped" in word_norm:
        column = [s if s > 0 else 0.1 * s for s in column]
    if word_norm == "clipped":
        return column
    length = math.hypot(*column) if "l2" in word_norm else sum(abs(s) for s in column)
    return [s / (length + 1e-8) for s in column]


def attention_of(row, scale):
    if scale == math.inf:
        best = [float(x == max(row)) for x in row]
        return [b / sum(best) for b in best]
    total = sum(math.exp(scale * x) for x in row)
    return [math.exp(scale * x) / total for x in row]


def smooth_maximum(row, scale):
    return max(row) if scale == math.inf else math.log(sum(math.exp(scale * s) for s in row)) / scale


def with_lengths(given_problem, score):
    return local_scores(
        given_problem.regions, given_problem.words, score=score, **given_problem.lengths, **given_problem.learned
    )


@pytest.mark.parametrize("score", EVERYTHING.values(), ids=EVERYTHING.keys())
def test_every_knob_one_number_at_a_time(score):
    small = problem("random", images=3, texts=2, most_regions=5, most_words=4, width=3)
    expected = [
        [
            one_number_at_a_time(text[:words].tolist(), image[:regions].tolist(), score)
            for text, words in zip(small.words, small.word_lengths, strict=True)
        ]
        for image, regions in zip(small.regions, small.region_lengths, strict=True)
    ]
    torch.testing.assert_close(with_lengths(small, score), torch.tensor(expected, dtype=torch.float64), **FLOAT64)


@pytest.mark.parametrize("score", [each for each in LEARNED_SCORES.values() if each.direction == "t2i"], ids=str)
def test_weights_and_scales_as_tensors_one_number_at_a_time(score):
    """The tensors say other scales than the score, which is not read then."""
    small = problem("random", images=3, texts=2, most_regions=5, most_words=4, width=3).learning(score)
    weights = small.learned["word_weights"]
    scales = {name: 0.7 * value for name, value in small.learned.items() if name != "word_weights"}
    scaled = replace(score, **{name: value.item() for name, value in scales.items()})
    expected = [
        [
            one_number_at_a_time(text[:words].tolist(), image[:regions].tolist(), scaled, own[:words].tolist())
            for text, own, words in zip(small.words, weights, small.word_lengths, strict=True)
        ]
        for image, regions in zip(small.regions, small.region_lengths, strict=True)
    ]
    found = with_lengths(small._replace(learned={"word_weights": weights, **scales}), score)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), **FLOAT64)


@pytest.mark.parametrize("score", LEARNED_SCORES.values(), ids=LEARNED_SCORES.keys())
def test_first_derivatives_of_what_is_learned(score):
    small = problem("random", images=2, texts=2, most_regions=4, most_words=3, width=2).learning(score)
    learned = dict(small.learned)
    if "word_weights" in learned:  # differences cannot go below 0
        learned["word_weights"] = learned["word_weights"] + 0.1
    inputs = (small.regions, small.words, *learned.values())
    for each in inputs:
        each.requires_grad_()

    def scores(regions, words, *values):
        given = dict(zip(learned, values, strict=True))
        return local_scores(regions, words, score=score, **small.lengths, **given)

    assert torch.autograd.gradcheck(scores, inputs)


def test_regions_attending_to_words_is_the_same_formula_exchanged():
    small = problem("unit", images=3, texts=2, most_regions=5, most_words=4, width=3)
    score = LocalScore.scan_i2t()
    expected = [
        [
            one_number_at_a_time(image[:regions].tolist(), text[:words].tolist(), score)
            for text, words in zip(small.words, small.word_lengths, strict=True)
        ]
        for image, regions in zip(small.regions, small.region_lengths, strict=True)
    ]
    torch.testing.assert_close(with_lengths(small, score), torch.tensor(expected, dtype=torch.float64), **FLOAT64)


@pytest.mark.parametrize("score", EVERYTHING.values(), ids=EVERYTHING.keys())
def test_first_derivatives(score):
    small = problem("random", images=2, texts=2, most_regions=4, most_words=3, width=2)
    inputs = (small.regions.requires_grad_(), small.words.requires_grad_())
    assert torch.autograd.gradcheck(lambda v, t: local_scores(v, t, score=score, **small.lengths), inputs)


@pytest.mark.parametrize("name", ["released", "paper", "scan_t2i", "maxsim"])
def test_second_derivatives(name):
    small = problem("random", images=2, texts=2, most_regions=3, most_words=2, width=2)
    inputs = (small.regions.requires_grad_(), small.words.requires_grad_())
    assert torch.autograd.gradgradcheck(lambda v, t: local_scores(v, t, score=PRESETS[name], **small.lengths), inputs)


def test_hard_attention_shares_ties_evenly():
    affinity = torch.tensor([[1.0, 3.0, 3.0, 3.0, 2.0]], dtype=torch.float64)
    shared = reference.attention(affinity, LocalScore.maxsim())
    torch.testing.assert_close(shared, torch.tensor([[0.0, 1, 1, 1, 0]], dtype=torch.float64) / 3)


def test_hard_attention_is_the_limit_of_the_softmax():
    small = problem("random", images=3, texts=3, most_regions=6, most_words=4, width=5)
    hard = LocalScore.maxsim()
    almost = LocalScore(word_norm="none", attention_scale=1e6, similarity="dot", pool="sum")
    torch.testing.assert_close(with_lengths(small, hard), with_lengths(small, almost), **FLOAT64)


def test_computes_in_the_dtype_it_is_given():
    side = Ragged(
        torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 3]), torch.tensor([3, 3])
    )
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
        given = side.to(dtype)
        assert reference.scores(given, given, LocalScore.released()).dtype == dtype


def test_a_zero_vector_scores_zero_and_differentiates_to_numbers():
    for name in ("released", "scan_t2i"):
        regions = torch.zeros(1, 2, 3, dtype=torch.float64, requires_grad=True)
        words = torch.zeros(1, 2, 3, dtype=torch.float64, requires_grad=True)
        scores = local_scores(regions, words, score=PRESETS[name])
        expected = math.log(2) / (PRESETS[name].word_scale if PRESETS[name].pool_divide else 1)
        assert scores.tolist() == [[pytest.approx(expected)]]
        for gradient in torch.autograd.grad(scores.sum(), (regions, words)):
            assert gradient.isfinite().all()


@given(
    images=st.integers(1, 4),
    texts=st.integers(1, 4),
    regions=st.integers(1, 9),
    words=st.integers(1, 7),
    width=st.integers(1, 6),
    name=st.sampled_from(sorted(PRESETS)),
    seed=st.integers(0, 2**16),
)
def test_padding_never_matters(images, texts, regions, words, width, name, seed):
    score = PRESETS[name]
    clean = problem("random", images, texts, regions, words, width, seed)
    dirty = clean._replace(regions=clean.regions.clone(), words=clean.words.clone())
    for rows, lengths in ((dirty.regions, dirty.region_lengths), (dirty.words, dirty.word_lengths)):
        for item, length in enumerate(lengths.tolist()):
            rows[item, length:] = math.nan
    results = []
    for each in (clean, dirty):
        inputs = (each.regions.requires_grad_(), each.words.requires_grad_())
        scores = with_lengths(each, score)
        results.append((scores.detach(), *torch.autograd.grad(scores, inputs, each.cotangent)))
    for from_clean, from_dirty in zip(*results, strict=True):
        assert torch.equal(from_clean, from_dirty)


@pytest.mark.parametrize("name", PRESETS)
def test_permuting_items_permutes_scores(name):
    score = PRESETS[name]
    one = problem("random", images=4, texts=5, most_regions=7, most_words=6, width=5)
    images, texts = torch.tensor([2, 0, 3, 1]), torch.tensor([4, 2, 0, 1, 3])
    permuted = one._replace(
        regions=one.regions[images],
        words=one.words[texts],
        region_lengths=one.region_lengths[images],
        word_lengths=one.word_lengths[texts],
    )
    torch.testing.assert_close(with_lengths(permuted, score), with_lengths(one, score)[images][:, texts], **FLOAT64)


def test_released_cosine_does_not_see_the_length_of_a_context():
    """Scaling regions and dividing words by the same factor leaves affinities, attention and cosines as they were."""
    one = problem("random", images=3, texts=3, most_regions=7, most_words=6, width=5)
    scaled = one._replace(regions=one.regions * 8, words=one.words / 8)
    released = LocalScore.released()
    torch.testing.assert_close(with_lengths(scaled, released), with_lengths(one, released), **FLOAT64)
