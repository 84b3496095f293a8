"""The Triton kernels under the interpreter, on CPU tensors, against the reference in float64."""

import itertools
import math

import pytest
import torch
import triton.language as tl
from checking import DTYPES, RELEASED, SCORES, check, check_backward, check_forward, double, gradients, problem
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from kernel_checks import assert_as_accurate, eager, fused, names_of
from problems import LEARNED_SCORES
from problems import problem as given_problem
from tolerances import ANY_SHAPE, BACKWARD, FLOAT32, FORWARD, error

from gloria_ops import LocalScore, local_contrastive_loss, local_pair_scores, local_scores, ops, reference
from gloria_ops.backends import triton as backend
from gloria_ops.backends.triton import block_sizes, context, plan
from gloria_ops.backends.triton import problem as triton_problem
from gloria_ops.backends.triton.block_sizes import Blocks
from gloria_ops.backends.triton.fused import TIED
from gloria_ops.backends.triton.problem import Precision, precision
from gloria_ops.tokens import Ragged

# images, texts, M, W, D: several blocks of regions, words and width; texts longer than a tile of 32; one of everything
SHAPES = {
    "blocks": (2, 7, 70, 20, 24),
    "long texts": (2, 3, 33, 75, 20),
    "one": (1, 1, 1, 1, 3),
    "wide": (2, 20, 9, 5, 50),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
def test_forward_errs_no_more_than_eager(score, dtype):
    # In float32 for every shape, in other dtypes for the one with several blocks of everything.
    for name, shape in SHAPES.items():
        if dtype == torch.float32 or name == "blocks":
            # One pair has no typical error of eager PyTorch.
            check_forward(problem(*shape, dtype), score, slack=ANY_SHAPE if name == "one" else 1)


@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
def test_backward_errs_no_more_than_eager(score):
    check_backward(problem(*SHAPES["blocks"], torch.float32), score)


@pytest.mark.parametrize("name", ["released", "paper", "scan_t2i"])
def test_backward_of_long_texts(name):
    check_backward(problem(*SHAPES["long texts"], torch.float32), SCORES[name])


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("name", ["released", "paper", "maxsim"])
def test_backward_in_half_precision(name, dtype):
    check_backward(problem(*SHAPES["blocks"], dtype), SCORES[name])


@pytest.mark.parametrize(("name", "dtype"), [("released", torch.bfloat16), ("paper", torch.float32)])
def test_products_through_tensor_descriptors(name, dtype, monkeypatch):
    """As GPUs of compute capability 9.0 take them: blocks of 96 rows in two parts, several for each program."""
    described = Blocks(96, 64, 32, 4, 1, described=True)
    choice = block_sizes._INTERPRETED._replace(product=described, regions=described)
    choice = choice._replace(fused=described._replace(rows=64))
    monkeypatch.setattr(block_sizes, "_INTERPRETED", choice)
    monkeypatch.setattr(triton_problem.Problem, "processors", 2)
    inputs = problem(*SHAPES["blocks"], dtype)
    check_forward(inputs, SCORES[name])
    check_backward(inputs, SCORES[name])


@settings(max_examples=8, phases=(Phase.explicit, Phase.generate))
@given(
    st.integers(1, 3), st.integers(1, 12), st.integers(1, 40), st.integers(1, 40), st.integers(2, 40),
    st.sampled_from(sorted(SCORES)), st.integers(0, 99),
)  # fmt: skip
def test_any_shape(images, texts, regions, words, dim, name, seed):
    inputs = problem(images, texts, regions, words, dim, torch.float32, seed)
    check_forward(inputs, SCORES[name], slack=ANY_SHAPE)
    check_backward(inputs, SCORES[name], slack=ANY_SHAPE)


# Every way that a weight or a scale goes into a gradient, once.
LEARNED = ("released", "paper_mean", "scan_t2i", "softmax_pool", "smooth_max", "smooth_max_sum", "maxsim_mean")


@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, torch.float32) for name in LEARNED), ("released", torch.bfloat16), ("smooth_max", torch.bfloat16)],
    ids=str,
)
def test_what_is_learned_errs_no_more_than_eager(name, dtype):
    """Weights of words, and both scales as tensors, with their gradients.

    A scale has one gradient, whose error is a matter of luck: that of several problems is not.
    """
    score = LEARNED_SCORES[name]
    shape = {"images": 2, "texts": 3, "most_regions": 40, "most_words": 14, "width": 24}
    some = [given_problem("random", **shape, seed=seed).learning(score, seed).to(dtype) for seed in range(6)]
    found = [
        [torch.stack(each) for each in zip(*map(compute, some), strict=True)]
        for compute in (
            lambda one: fused(one, score, "triton"),
            lambda one: eager(one, score),
            lambda one: eager(one.to(torch.float64), score),
        )
    ]
    assert_as_accurate(*found, slack=1, names=names_of(some[0]))


@pytest.mark.parametrize("name", ["released", "smooth_max"])
def test_chosen_pairs_are_those_of_the_whole_matrix(name):
    score, pairs = LEARNED_SCORES[name], torch.tensor([[0, 1], [1, 1], [0, 3], [1, 1]])
    one = given_problem("random", 2, 4, 9, 5, 8).learning(score).to(torch.float32)
    leaves = [each.clone().requires_grad_() for each in (one.regions, one.words, *one.learned.values())]
    learned = {key: each.float() for key, each in zip(one.learned, leaves[2:], strict=True)}
    given = {"score": score, "backend": "triton", **one.lengths, **learned}
    every, ours = local_scores(*leaves[:2], **given), local_pair_scores(*leaves[:2], pairs, **given)
    expected = every[pairs[:, 0], pairs[:, 1]]
    upstream = torch.tensor([1.0, -2.0, 0.5, 3.0])
    torch.testing.assert_close(ours, expected, **FLOAT32)
    of_pairs, of_matrix = (torch.autograd.grad(each, leaves, upstream) for each in (ours, expected))
    for gradient, other in zip(of_pairs, of_matrix, strict=True):
        torch.testing.assert_close(gradient, other, **FLOAT32)


def test_regions_that_tie_share_the_gradient_of_a_hard_maximum(monkeypatch):
    """Every second region twice, a word of zeros, whose best regions are all of them; several chunks of each side."""
    images, texts = problem(3, 5, 8, 6, 24, torch.bfloat16)
    images.rows[1::2] = images.rows[::2]
    texts.rows[texts.starts[2]] = 0.0
    inputs = images, texts
    monkeypatch.setattr(block_sizes, "_INTERPRETED", block_sizes._INTERPRETED._replace(chunk_words=20, chunk_images=2))
    monkeypatch.setattr(plan, "LONGEST_TEXT", 6)
    check_backward(inputs, SCORES["maxsim"])
    grad_scores = torch.ones(3, 5)
    first, second = (backend.backward(grad_scores, *inputs, SCORES["maxsim"]) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    real = torch.arange(24) % 8 < images.lengths.repeat_interleave(8) // 2 * 2
    pairs = first[0].where(real[:, None], 0).unflatten(0, (12, 2))
    assert torch.equal(pairs[:, 0], pairs[:, 1])


def test_any_number_of_regions_that_tie_is_no_only_one():
    """A word of zeros with 4,090 regions: their numbers, added up in 32 bits, once came back to that of one region."""
    images = Ragged(torch.randn(4090, 8), torch.tensor([0]), torch.tensor([4090]))
    texts = Ragged(torch.zeros(1, 8), torch.tensor([0]), torch.tensor([1]))
    best = torch.zeros(1, 1, dtype=torch.int32)
    backend.forward(images, texts, SCORES["maxsim"], best=best)
    assert best.item() == TIED.value


def test_max_pool_takes_the_gradient_to_the_best_word():
    check_forward(problem(*SHAPES["blocks"], torch.float32), LocalScore(pool="max"))
    check_backward(problem(*SHAPES["blocks"], torch.float32), LocalScore(pool="max"))


def test_by_context_and_by_gram(monkeypatch):
    inputs = problem(*SHAPES["blocks"], torch.float32)
    by_way = []
    for limit in (0.0, math.inf):
        monkeypatch.setattr(triton_problem, "GRAM_UP_TO", limit)
        by_way.append(backend.forward(*inputs, RELEASED))
    truth = reference.scores(*double(inputs), RELEASED)
    eager = reference.scores(*inputs, RELEASED)
    for scores in by_way:
        check(scores, eager, truth, FORWARD)
    assert not torch.equal(*by_way)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["centered", "steep", "nearly equal", "nearly opposite", "faint"])
def test_hard_numbers(kind, dtype):
    """Contexts that cancel, attentions that are all at one region or far from their bound, and cosines near 1."""
    inputs, score = hard_problem(kind, dtype)
    check_forward(inputs, score)
    check_backward(inputs, score)


def test_words_whose_contexts_cancel_go_the_direct_way_by_themselves(monkeypatch):
    """Regions come in pairs v and -v (1 + 1e-4): |c| is 1e-4 of what it is made of, and e^T G e has no digit of it."""
    (images, texts), score = hard_problem("nearly opposite", torch.float32)
    both = backend.forward(images, texts, score)
    truth = reference.scores(*double((images, texts)), score)
    check(both, reference.scores(images, texts, score), truth, FORWARD)
    # An image beside it whose contexts do not cancel changes no bit.
    first = Ragged(images.rows[:36], images.starts[:1], images.lengths[:1])
    assert torch.equal(backend.forward(first, texts, score)[0], both[0])
    # Without the direct way it errs by orders of magnitude: the problem is one that needs it.
    monkeypatch.setattr(context, "direct_contexts", lambda *arguments: None)
    monkeypatch.setattr(context, "CANCELLED", tl.constexpr(-1.0))
    assert error(backend.forward(images, texts, score), truth) > 100 * error(both, truth)


def hard_problem(kind, dtype, seed=3):
    """Small problems of one kind, and the score that makes them hard."""
    random = torch.Generator().manual_seed(seed)
    images, texts, regions, words, dim = 4, 3, 36, 9, 32
    v = torch.randn(images, regions, dim, generator=random, dtype=torch.float64) / dim**0.25
    t = torch.randn(texts, words, dim, generator=random, dtype=torch.float64) / dim**0.25
    score = RELEASED
    if kind == "centered":
        v -= v.mean(1, keepdim=True)
    elif kind == "steep":
        score = LocalScore(attention_scale=1000.0)
    elif kind == "nearly equal":
        v = v[:, :1] + 1e-2 * v
        t = v[:1, :1] + 1e-2 * t
    elif kind == "faint":
        # The first word has x = -1 at all regions.
        score = LocalScore(word_norm="clipped_l2", attention_scale=20.0)
        t[:, 1:] *= 1e-3
        v, t = 1e-12 * v.abs(), -1e12 * t.abs()
    else:
        # Words see little of the regions, so that they attend to all of them alike.
        t *= 1e-3
        v[:3, 1::2] = -v[:3, ::2] * (1 + (1e-4 if dtype == torch.float32 else 0.05))
    of_images = torch.arange(images) * regions, torch.full((images,), regions)
    of_texts = torch.arange(texts) * words, torch.tensor([words, 5, 3])
    return (Ragged(v.flatten(0, 1).to(dtype), *of_images), Ragged(t.flatten(0, 1).to(dtype), *of_texts)), score


def test_an_attention_that_is_all_at_one_region_has_no_gradient():
    """One region: nothing but gs = gd a remains, whatever the scale."""
    inputs = problem(2, 3, 1, 6, 16, torch.float32)
    mild, steep = (LocalScore(attention_scale=scale, similarity="dot") for scale in (4.0, 1e6))
    grad_scores = torch.randn(2, 3, generator=torch.Generator().manual_seed(1))
    for ours, other in zip(*(backend.backward(grad_scores, *inputs, score) for score in (mild, steep)), strict=True):
        assert torch.equal(ours, other)


def test_chunks_of_images_change_nothing(monkeypatch):
    # Images fill whole blocks: the interpreter's products depend on the place within one, as a GPU's do not.
    inputs = problem(3, 7, 64, 20, 24, torch.float32)
    grad_scores = torch.randn(3, 7)
    whole = backend.forward(*inputs, RELEASED), *backend.backward(grad_scores, *inputs, RELEASED)
    monkeypatch.setattr(triton_problem, "WORKSPACE_BYTES", 1)
    parts = backend.forward(*inputs, RELEASED), *backend.backward(grad_scores, *inputs, RELEASED)
    assert torch.equal(whole[0], parts[0])
    assert torch.equal(whole[1], parts[1])
    # The words are summed over the images in other groups.
    torch.testing.assert_close(whole[2], parts[2], **FLOAT32)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_sums_over_many_groups_of_images_err_no_more_than_one(dtype, monkeypatch):
    """The gradient of a word is summed over 12 images one by one, as itself and a rest: no more wrong than at once."""
    inputs = problem(12, 3, 5, 9, 16, dtype)
    grad_scores = torch.randn(12, 3, generator=torch.Generator().manual_seed(1))
    _, truth = gradients(double(inputs), RELEASED, grad_scores)
    _, whole = backend.backward(grad_scores, *inputs, RELEASED)
    monkeypatch.setattr(triton_problem, "WORKSPACE_BYTES", 1)
    _, parts = backend.backward(grad_scores, *inputs, RELEASED)
    assert not torch.equal(whole, parts)
    assert error(parts, truth) <= 1.05 * error(whole, truth)


@pytest.mark.parametrize("name", ["released", "softmax, dot", "paper"])
def test_chunks_of_texts_change_nothing(name, monkeypatch):
    """Texts of 1 to 20 words, 7 of them, in chunks of about 20 words; two blocks of regions."""
    images, texts = problem(2, 7, 70, 20, 24, torch.float32)
    # The interpreter's products round by the place within a block, as a GPU's do not: affinities of eighths are exact.
    inputs = tuple(side._replace(rows=(side.rows * 8).round() / 8) for side in (images, texts))
    grad_scores = torch.randn(2, 7, generator=torch.Generator().manual_seed(1))
    whole = backend.forward(*inputs, SCORES[name]), *backend.backward(grad_scores, *inputs, SCORES[name])
    monkeypatch.setattr(block_sizes, "_INTERPRETED", block_sizes._INTERPRETED._replace(chunk_words=20))
    monkeypatch.setattr(plan, "LONGEST_TEXT", 20)
    parts = backend.forward(*inputs, SCORES[name]), *backend.backward(grad_scores, *inputs, SCORES[name])
    if name == "softmax, dot":
        assert torch.equal(whole[0], parts[0])
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, **FLOAT32)


def test_the_same_inputs_give_the_same_bits():
    inputs = problem(*SHAPES["blocks"], torch.bfloat16)
    grad_scores = torch.randn(2, 7)
    first, second = (backend.backward(grad_scores, *inputs, RELEASED) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("name", ["paper", "released", "maxsim"])
def test_nan_shows_in_its_own_scores_only(name):
    inputs = images, texts = problem(*SHAPES["blocks"], torch.float32)
    clean = backend.forward(*inputs, SCORES[name])
    images.rows[images.starts[1], 2] = math.nan
    texts.rows[texts.starts[4], 0] = math.nan
    scores = backend.forward(*inputs, SCORES[name])
    hit = torch.zeros(2, 7, dtype=torch.bool)
    hit[1], hit[:, 4] = True, True
    assert torch.equal(scores.isnan(), hit)
    assert torch.equal(scores[~hit], clean[~hit])


def test_rows_of_no_item_get_no_gradient():
    inputs = problem(*SHAPES["blocks"], torch.float32)
    for side, gradient in zip(inputs, backend.backward(torch.ones(2, 7), *inputs, RELEASED), strict=True):
        nobodys = side.rows.isnan()
        assert torch.equal(gradient[nobodys], torch.zeros(int(nobodys.sum())))


def test_images_beyond_the_padding_score_nan():
    images, texts = problem(2, 2, 6, 4, 8, torch.float32)
    uneven = Ragged(images.rows.nan_to_num(), torch.tensor([0, 7]), torch.tensor([7, 5]))
    scores = backend.forward(uneven, texts, RELEASED)
    assert torch.equal(scores.isnan(), torch.tensor([[True, True], [False, False]]))
    assert images.starts[1] == 6


@pytest.mark.parametrize("score", [LocalScore(similarity="dot"), LocalScore.paper(0.3, 0.2)], ids=["split", "fused"])
def test_texts_beyond_the_longest_score_nan(score):
    words = plan.LONGEST_TEXT + 1
    images = Ragged(torch.randn(2, 8), torch.tensor([0]), torch.tensor([2]))
    texts = Ragged(torch.randn(words + 3, 8), torch.tensor([0, words]), torch.tensor([words, 3]))
    scores = backend.forward(images, texts, score)
    assert torch.equal(scores.isnan(), torch.tensor([[True, False]]))
    grad_regions, grad_words = backend.backward(torch.ones(1, 2), images, texts, score)
    assert grad_regions.isfinite().all()
    assert torch.equal(grad_words[:words], torch.zeros(words, 8))


@settings(max_examples=30)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=60), st.integers(1, 99))
def test_every_text_is_in_one_chunk_and_fits(lengths, chunk_words):
    lengths = torch.tensor(lengths)
    texts = Ragged(torch.empty(int(lengths.sum()), 8), lengths.cumsum(0) - lengths, lengths)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "LONGEST_TEXT", 60)
        found = plan.plan(texts, chunk_words)
    assert found.dense_starts.tolist() == [0, *lengths.cumsum(0).tolist()]
    first = found.first_texts.tolist()
    assert first[0] == 0
    assert first[-1] == lengths.numel()
    assert first == sorted(first)
    assert len(first) == found.chunks + 1
    for start, end in itertools.pairwise(first):
        assert end - start <= found.texts_at_once
        assert int(lengths[start:end].sum()) <= found.capacity


# A hard maximum with a single text, for what stands in `best` behind packed words is anything.
@pytest.mark.parametrize(("name", "texts"), [("released", 3), ("paper", 3), ("maxsim", 1)])
def test_torch_sees_an_op_like_any_other(name, texts):
    inputs = problem(2, texts, 9, 5, 8, torch.float32)
    learned = [side._replace(rows=side.rows.nan_to_num().requires_grad_()) for side in inputs]
    torch.library.opcheck(ops.scores, (name == "maxsim", *ops.flattened(*learned, SCORES[name], "triton")))
    plain = ops.flattened(*[side._replace(rows=side.rows.detach()) for side in learned], SCORES[name], "triton")
    _, best = ops.scores(name == "maxsim", *plain)
    torch.library.opcheck(ops.scores_backward, (torch.randn(2, texts), best, *plain))


def test_the_public_loss_is_that_of_the_reference():
    v, t = torch.randn(4, 6, 5, 5) / 2, torch.randn(4, 7, 6) / 2

    def losses_and_gradients(backend_name, dtype):
        regions, words = (each.to(dtype).requires_grad_() for each in (v, t))
        losses = local_contrastive_loss(regions, words, word_lengths=[7, 1, 4, 6], backend=backend_name)
        return torch.stack(losses), *torch.autograd.grad(sum(losses), (regions, words))

    ours, eager = (losses_and_gradients(name, torch.float32) for name in ("triton", "reference"))
    truth = losses_and_gradients("reference", torch.float64)
    for factor, *each in zip((FORWARD, BACKWARD, BACKWARD), ours, eager, truth, strict=True):
        check(*each, factor)


def test_float32_follows_the_precision_of_torch():
    assert precision(torch.float32, "highest") == Precision(torch.float32, torch.float32, "ieee")
    assert precision(torch.float32, "high") == Precision(torch.float32, torch.float32, "tf32x3")


def test_too_many_regions_for_the_workspace_are_refused(monkeypatch):
    monkeypatch.setattr(triton_problem, "LARGEST_BYTES", 1 << 10)
    inputs = problem(*SHAPES["one"], torch.float32)
    with pytest.raises(NotImplementedError, match="for one image of 1 regions"):
        backend.backward(torch.ones(1, 1), *inputs, RELEASED)


def test_the_interpreter_takes_cpu_tensors_only():
    assert backend.unavailable() is None
    assert backend.unsupported(RELEASED, torch.bfloat16, torch.device("cpu")) is None
    assert "computes on cpu tensors, not on cuda:0" in backend.unsupported(
        RELEASED, torch.float32, torch.device("cuda:0")
    )
