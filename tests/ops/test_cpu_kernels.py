"""The fused CPU kernels against float64, on every instruction set that this processor can run."""

import math
from dataclasses import replace
from itertools import product

import pytest
import torch
from kernel_checks import assert_as_accurate_as_eager, check_each, eager, fused, threads
from problems import DELICATE, EVERY_SCORE, LEARNED_SCORES, PRESETS, problem
from tolerances import FLOAT32

from gloria_ops import LocalScore, local_scores, ops
from gloria_ops.backends import cpu
from gloria_ops.tokens import canonical

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# Regions fewer than words are wide take the Gram matrix, many more take the contexts directly.
SHAPES = {
    "gram": {"images": 3, "texts": 4, "most_regions": 49, "most_words": 23, "width": 96},
    "direct": {"images": 3, "texts": 4, "most_regions": 131, "most_words": 23, "width": 24},
}


@pytest.fixture(params=cpu.available_isas())
def isa(request):
    with cpu.use_isa(request.param):
        yield request.param


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", PRESETS)
def test_presets_against_float64(isa, name, dtype):
    def check(shape, kind):
        assert_as_accurate_as_eager(problem(kind, **SHAPES[shape]).to(dtype), PRESETS[name])

    check_each(check, SHAPES, ["random", "correlated", "unit"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["released", "paper", "scan_t2i", "scan_i2t", "maxsim"])
def test_small_differences_of_large_numbers_against_float64(isa, name, dtype):
    def check(shape, kind):
        assert_as_accurate_as_eager(problem(kind, **SHAPES[shape]).to(dtype), PRESETS[name], orders=4)

    check_each(check, SHAPES, DELICATE)


@pytest.mark.parametrize("kind", DELICATE)
@pytest.mark.parametrize("name", ["released", "paper", "scan_t2i"])
def test_small_differences_at_real_sizes_against_float64(name, kind):
    real = problem(kind, images=2, texts=3, most_regions=361, most_words=97, width=768)
    assert_as_accurate_as_eager(real.to(torch.float32), PRESETS[name], orders=2)


@pytest.mark.parametrize("scale", [1e3, 1e6, 1e38])
@pytest.mark.parametrize("similarity", ["dot", "cosine"])
@pytest.mark.parametrize("norm", ["none", "softmax", "clipped_l2"])
def test_steep_attention_against_float64(isa, norm, similarity, scale):
    """Where one region has all attention, nothing goes back through it: rounding times the scale is not nothing."""
    one = problem("random", images=4, texts=4, most_regions=31, most_words=16, width=64).to(torch.float32)
    score = LocalScore(word_norm=norm, similarity=similarity, attention_scale=scale, pool="sum")
    if scale < 1e38:
        return assert_as_accurate_as_eager(one, score, orders=32)
    # Eager float32 overflows to NaN here; the limit of a hard maximum is exact.
    hard = fused(one, replace(score, attention_scale=math.inf))
    for ours, limit in zip(fused(one, score), hard, strict=True):
        torch.testing.assert_close(ours, limit, **FLOAT32)


def test_what_is_left_beside_a_region_with_nearly_all_attention(isa):
    """The next one has 2e-8, and its gradient times the scale counts: less than the rounding of the mean over both."""
    one = problem("correlated", images=1, texts=1, most_regions=17, most_words=34, width=37, seed=402)
    score = LocalScore(word_norm="none", attention_scale=10**3.125, direction="i2t")
    assert_as_accurate_as_eager(one.to(torch.float32), score, orders=16)


def test_nothing_goes_back_through_the_attention_of_an_only_region(isa):
    one = problem("random", images=2, texts=5, most_regions=68, most_words=1, width=8, seed=12537, magnitudes=(1, 1e3))
    score = LocalScore(word_norm="softmax", similarity="dot", attention_scale=1.0, pool="max", direction="i2t")
    assert_as_accurate_as_eager(one.to(torch.float32), score, orders=16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_small_attention_on_a_long_region(isa, dtype):
    """A word's bounded attention is 0.0025 and 0.9975: the first would have no digit left beside the mean of both."""
    one = problem("random", images=1, texts=1, most_regions=2, most_words=1, width=64)
    regions = (one.regions + 2 * one.words * torch.tensor([[-1.0], [1.0]])) * torch.tensor([[1000.0], [0.1]])
    score = LocalScore(word_norm="clipped_l2", similarity="dot", attention_scale=3.0, pool="sum")
    assert_as_accurate_as_eager(one._replace(regions=regions).to(dtype), score, orders=16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("scale", [9.0, 13.0, 16.0])
def test_a_bounded_attention_far_below_its_bound(isa, scale, dtype):
    """No region is near to any word: the attention's sums are e^-2 scale of what they may be, and squared."""
    one = problem("random", images=2, texts=3, most_regions=5, most_words=1, width=16, magnitudes=(1e-12, 1e12))
    one = one._replace(regions=one.regions.abs(), words=-one.words.abs()).to(dtype)
    assert_as_accurate_as_eager(one, LocalScore(word_norm="clipped_l2", attention_scale=scale))


MAGNITUDES = [(1e-12, 1e-12), (1e-6, 1), (1, 1e-6), (1e-12, 1e12), (1e12, 1e-12), (1e12, 1), (1, 1e12), (1e12, 1e12)]


@pytest.mark.parametrize("kind", ["random", "correlated", *DELICATE])
@pytest.mark.parametrize("name", ["released", "paper", "scan_t2i", "maxsim"])
def test_any_magnitude_against_float64(name, kind):
    def check(magnitudes):
        one = problem(kind, images=3, texts=4, most_regions=29, most_words=15, width=64, magnitudes=magnitudes)
        assert_as_accurate_as_eager(one.to(torch.float32), PRESETS[name], orders=4)

    check_each(check, MAGNITUDES)


@pytest.mark.parametrize("magnitude", [1e-9, 1e-4])
@pytest.mark.parametrize("norm", ["none", "softmax", "clipped_l2"])
def test_a_flat_attention_over_nearly_opposite_regions(isa, norm, magnitude):
    """The dot similarity and the words' gradients are a thousandth of what they are the sums of."""
    score = LocalScore(word_norm=norm, similarity="dot", attention_scale=1.0, pool="sum")
    scores = [score, replace(score, similarity="smooth_max")] if norm == "none" else [score]
    for dtype, one_score in product((torch.float32, torch.bfloat16), scores):
        one = problem("nearly_opposite", **SHAPES["gram"], magnitudes=(1, magnitude)).to(dtype)
        assert_as_accurate_as_eager(one, one_score, orders=4)


def test_a_flat_attention_over_centered_regions(isa):
    """The context is what is left of regions that cancel to a thousandth and less, yet cosines are right."""
    one = problem("centered", images=2, texts=2, most_regions=49, most_words=40, width=128).to(torch.float32)
    score = LocalScore(attention_scale=0.1)
    ours, truth = fused(one, score)[0], eager(one.to(torch.float64), score)[0]
    torch.testing.assert_close(ours.double(), truth, rtol=1e-3, atol=0)


@pytest.mark.parametrize("score", EVERY_SCORE.values(), ids=EVERY_SCORE.keys())
def test_every_knob_against_float64(isa, score):
    small = problem("random", images=4, texts=6, most_regions=40, most_words=15, width=64)

    def check(dtype):
        assert_as_accurate_as_eager(small.to(dtype), score)

    check_each(check, DTYPES)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", LEARNED_SCORES)
def test_what_is_learned_against_float64(isa, name, dtype):
    """Weights of words, and both scales as tensors, with their gradients."""
    score = LEARNED_SCORES[name]
    for shape in SHAPES.values():
        assert_as_accurate_as_eager(problem("random", **shape).learning(score).to(dtype), score)


@pytest.mark.parametrize("kind", ["random", "correlated", "unit"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["released", "paper", "scan_t2i", "maxsim"])
def test_real_sizes_against_float64(name, dtype, kind):
    """The sizes of a ResNet-50 at 299 px and of real reports; several tiles and chunks of each side."""
    real = problem(kind, images=3, texts=4, most_regions=361, most_words=97, width=768)
    assert_as_accurate_as_eager(real.to(dtype), PRESETS[name])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sizes_that_no_tile_divides(isa, dtype):
    odd = problem("random", images=2, texts=9, most_regions=263, most_words=97, width=203)
    assert_as_accurate_as_eager(odd.to(dtype), LocalScore.released())


@pytest.mark.parametrize("name", PRESETS)
def test_least_and_greatest_sizes(isa, name):
    def check(sizes):
        assert_as_accurate_as_eager(problem("random", 8, 8, *sizes).to(torch.float32), PRESETS[name])

    check_each(check, [(1, 1, 4), (1, 7, 4), (7, 1, 4), (5, 3, 2), (2, 512, 8)])


@pytest.mark.parametrize("name", ["paper", "maxsim"])
def test_width_of_one(isa, name):
    assert_as_accurate_as_eager(problem("random", 8, 8, 5, 3, width=1).to(torch.float32), PRESETS[name])


def test_cosines_at_a_width_of_one_are_signs(isa):
    """One region and one word of one number each: the cosine is 1 or -1, and its gradient is zero but for rounding."""
    numbers = torch.tensor([0.5, -2.0, 3.0]).reshape(3, 1, 1)
    regions, words = numbers.clone().requires_grad_(), numbers.clone().requires_grad_()
    scores = local_scores(regions, words, backend="cpu")
    signs = torch.outer(numbers.flatten(), numbers.flatten()).sign()
    torch.testing.assert_close(scores, 5 * signs, rtol=4 * torch.finfo(torch.float32).eps, atol=0)
    for gradient in torch.autograd.grad(scores.sum(), (regions, words)):
        assert gradient.abs().max() <= 100 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", PRESETS)
def test_padding_changes_no_bit_and_receives_no_gradient(isa, name, dtype):
    clean = problem("random", **SHAPES["gram"]).to(dtype)
    dirty = clean._replace(regions=clean.regions.clone(), words=clean.words.clone())
    for rows, lengths in ((dirty.regions, dirty.region_lengths), (dirty.words, dirty.word_lengths)):
        for item, length in enumerate(lengths.tolist()):
            rows[item, length:] = math.nan
    from_clean, from_dirty = fused(clean, PRESETS[name]), fused(dirty, PRESETS[name])
    for ours, padded in zip(from_clean, from_dirty, strict=True):
        assert torch.equal(ours, padded)
    for gradient, lengths in zip(from_dirty[1:], (dirty.region_lengths, dirty.word_lengths), strict=True):
        for item, length in enumerate(lengths.tolist()):
            assert not gradient[item, length:].any()


@pytest.mark.parametrize("name", PRESETS)
def test_nan_in_a_real_token_shows_in_its_scores_only(isa, name):
    clean = problem("random", **SHAPES["gram"]).to(torch.float32)
    broken = clean._replace(regions=clean.regions.clone(), words=clean.words.clone())
    broken.regions[1, 0] = math.nan
    broken.words[2, 0] = math.nan
    expected = fused(clean, PRESETS[name])[0]
    expected[1], expected[:, 2] = math.nan, math.nan
    scores = local_scores(broken.regions, broken.words, score=PRESETS[name], backend="cpu", **broken.lengths)
    torch.testing.assert_close(scores, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", PRESETS)
def test_a_batch_of_one_equals_its_row_bit_for_bit(isa, name):
    def check(dtype, kind, image):
        many = problem(kind, images=4, texts=11, most_regions=33, most_words=29, width=50).to(dtype)
        scores, grad_regions, _ = fused(many, PRESETS[name])
        one = many._replace(
            regions=many.regions[image, None],
            region_lengths=many.region_lengths[image, None],
            cotangent=many.cotangent[image, None],
        )
        row, grad_row, _ = fused(one, PRESETS[name])
        assert torch.equal(row[0], scores[image])
        if PRESETS[name].direction == "t2i":
            assert torch.equal(grad_row[0], grad_regions[image])

    check_each(check, DTYPES, ["random", "centered"], range(4))


@pytest.mark.parametrize("name", PRESETS)
def test_permuting_texts_permutes_columns(isa, name):
    texts = torch.tensor([2, 0, 3, 1])

    def check(dtype, kind):
        one = problem(kind, **SHAPES["gram"]).to(dtype)
        permuted = one._replace(words=one.words[texts], word_lengths=one.word_lengths[texts])
        assert torch.equal(fused(permuted, PRESETS[name])[0], fused(one, PRESETS[name])[0][:, texts])

    check_each(check, DTYPES, ["random", "centered"])


@pytest.mark.parametrize("name", PRESETS)
def test_the_number_of_threads_changes_no_bit(isa, name):
    def check(dtype, kind):
        one = problem(kind, images=7, texts=6, most_regions=50, most_words=30, width=40)
        one = one.learning(PRESETS[name]).to(dtype)
        with threads(1):
            alone = fused(one, PRESETS[name])
        for count in (2, 3):
            with threads(count):
                for ours, before in zip(fused(one, PRESETS[name]), alone, strict=True):
                    assert torch.equal(ours, before)

    check_each(check, DTYPES, ["random", "centered"])


def test_huge_affinities_stay_finite(isa):
    """Raw affinities of large features overflow float16, and an exponential without its maximum."""
    one = problem("random", **SHAPES["gram"])
    large = one._replace(regions=one.regions * 300, words=one.words * 300).to(torch.float32)
    for name in ("released", "scan_t2i", "maxsim"):
        assert all(each.isfinite().all() for each in fused(large, PRESETS[name])), name
    steep = replace(LocalScore.released(), attention_scale=1000.0, word_scale=500.0)
    assert all(each.isfinite().all() for each in fused(large, steep))


def test_addresses_outside_the_rows_are_refused():
    regions, words = torch.randn(2, 4, 8), torch.randn(3, 5, 8)
    images, texts, _ = canonical(regions, words)
    with pytest.raises(ValueError, match="item 2 has length 6 from row 10, outside the 15 rows"):
        cpu.forward(images, texts._replace(lengths=torch.tensor([5, 5, 6])), LocalScore.released())


def test_an_instruction_set_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"isa is 'sse9'; expected one of .*baseline"), cpu.use_isa("sse9"):
        pass


@pytest.mark.parametrize("name", ["maxsim", "scan_t2i_max"])
def test_ties_are_shared_as_in_the_reference(isa, name):
    """Every region and every word occurs twice: maxima over either share attention and gradient evenly."""
    once = problem("random", images=3, texts=3, most_regions=9, most_words=5, width=8)
    twice = once._replace(
        regions=once.regions.repeat_interleave(2, dim=1),
        words=once.words.repeat_interleave(2, dim=1),
        region_lengths=once.region_lengths * 2,
        word_lengths=once.word_lengths * 2,
    )
    ours, truth = fused(twice.to(torch.float32), PRESETS[name]), eager(twice, PRESETS[name])
    for kernel, exact in zip(ours, truth, strict=True):
        torch.testing.assert_close(kernel.double(), exact, **FLOAT32)


HARD = {name: score for name, score in EVERY_SCORE.items() if math.isinf(score.attention_scale)}
HARD |= {name: LEARNED_SCORES[name] for name in ("maxsim_mean", "hard_cosine")} | {
    "i2t": replace(PRESETS["scan_i2t"], attention_scale=math.inf)
}


def some_tie():
    """Several bins of texts, rows that no word owns, and an image whose regions all occur twice."""
    one = problem("random", images=3, texts=40, most_regions=24, most_words=23, width=20)
    one.regions[1, 1::2] = one.regions[1, ::2]
    one.region_lengths[1] = 24
    return one


@pytest.mark.parametrize("name", HARD)
def test_gradients_are_those_without_what_forward_kept(isa, name, monkeypatch):
    score = HARD[name]
    one = (some_tie().learning(score) if name in LEARNED_SCORES else some_tie()).to(torch.float32)
    by_kept = fused(one, score)
    monkeypatch.setattr(ops, "KEPT_BYTES", 0)
    for kept, found_again in zip(by_kept, fused(one, score), strict=True):
        torch.testing.assert_close(kept, found_again, **FLOAT32)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_forward_keeps_the_only_best_region_of_each_word(isa, dtype):
    one = some_tie().to(dtype)
    images, texts, *_ = canonical(one.regions, one.words, **one.lengths)
    best = torch.full((3, len(texts.rows)), 99, dtype=torch.int32)
    cpu.forward(images, texts, PRESETS["maxsim"], best=best)
    real = torch.arange(23) < one.word_lengths[:, None]
    for image, length in enumerate(one.region_lengths.tolist()):
        affinity = one.words.double() @ one.regions[image, :length].double().T
        tie = (affinity == affinity.amax(2, keepdim=True)).sum(2) > 1
        assert tie[real].all() == (image == 1)
        expected = affinity.argmax(2).where(~tie, -1)
        assert torch.equal(best[image].unflatten(0, real.shape)[real], expected[real].int())


def test_what_was_kept_of_another_batch_is_refused():
    one = some_tie().to(torch.float32)
    images, texts, *_ = canonical(one.regions, one.words, **one.lengths)
    best = torch.empty(2, 920, dtype=torch.int32)
    with pytest.raises(ValueError, match=r"best is torch.int32 of the shape \(2, 920\) .* of the shape \(3, 920\)"):
        cpu.backward(torch.ones(3, 40), images, texts, PRESETS["maxsim"], best=best)


@pytest.mark.parametrize(("limit", "kept"), [(4 * 3 * 920, True), (4 * 3 * 920 - 1, False)])
def test_what_is_kept_stays_within_its_bytes(limit, kept, monkeypatch):
    given = []
    backward = cpu.backward
    monkeypatch.setattr(cpu, "backward", lambda *arguments: given.append(arguments[-1]) or backward(*arguments))
    monkeypatch.setattr(ops, "KEPT_BYTES", limit)
    fused(some_tie().to(torch.float32), PRESETS["maxsim"])
    assert [best is not None for best in given] == [kept]


def test_nothing_is_kept_where_nobody_differentiates(monkeypatch):
    given = []
    forward = cpu.forward
    monkeypatch.setattr(cpu, "forward", lambda *some, **named: given.append(named["best"]) or forward(*some, **named))
    one = some_tie().to(torch.float32)
    local_scores(one.regions, one.words, score=PRESETS["maxsim"], backend="cpu", **one.lengths)
    with torch.no_grad():
        local_scores(one.regions.requires_grad_(), one.words, score=PRESETS["maxsim"], backend="cpu", **one.lengths)
    assert given == [None, None]
