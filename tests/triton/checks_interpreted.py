"""The Triton kernels under the interpreter, on CPU tensors, against the reference in float64."""

import math

import pytest
import torch
from checking import DTYPES, RELEASED, SCORES, check, check_backward, check_forward, double, gradients, problem
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from tolerances import ANY_SHAPE, FLOAT32, FORWARD, error

from bench.lengths import draw_lengths
from gloria_ops import LocalScore, local_contrastive_loss, ops, reference
from gloria_ops.backends import triton as backend
from gloria_ops.backends.triton import launch, tiles
from gloria_ops.backends.triton.settings import Precision, precision
from gloria_ops.tokens import Ragged

# images, texts, M, W, D: several blocks of regions, words and width; texts longer than a tile of 32; one of everything
SHAPES = {
    "blocks": (3, 7, 70, 20, 24),
    "long texts": (2, 3, 33, 75, 20),
    "one": (1, 1, 1, 1, 3),
    "wide": (2, 20, 9, 5, 50),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
def test_forward_errs_no_more_than_eager(score, dtype):
    for name, shape in SHAPES.items():
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


@settings(max_examples=8, phases=(Phase.explicit, Phase.generate))
@given(
    st.integers(1, 3), st.integers(1, 12), st.integers(1, 40), st.integers(1, 40), st.integers(2, 40),
    st.sampled_from(sorted(SCORES)), st.integers(0, 99),
)  # fmt: skip
def test_any_shape(images, texts, regions, words, dim, name, seed):
    inputs = problem(images, texts, regions, words, dim, torch.float32, seed)
    check_forward(inputs, SCORES[name], slack=ANY_SHAPE)
    check_backward(inputs, SCORES[name], slack=ANY_SHAPE)


def test_max_pool_takes_the_gradient_to_the_best_word():
    check_forward(problem(*SHAPES["blocks"], torch.float32), LocalScore(pool="max"))
    check_backward(problem(*SHAPES["blocks"], torch.float32), LocalScore(pool="max"))


def test_by_context_and_by_gram(monkeypatch):
    inputs = problem(*SHAPES["blocks"], torch.float32)
    by_way = []
    for limit in (0.0, math.inf):
        monkeypatch.setattr(launch, "GRAM_UP_TO", limit)
        by_way.append(backend.forward(*inputs, RELEASED))
    truth = reference.scores(*double(inputs), RELEASED)
    eager = reference.scores(*inputs, RELEASED)
    for scores in by_way:
        check(scores, eager, truth, FORWARD)
    assert not torch.equal(*by_way)


def test_chunks_of_images_change_nothing(monkeypatch):
    inputs = problem(*SHAPES["blocks"], torch.float32)
    grad_scores = torch.randn(3, 7)
    whole = backend.forward(*inputs, RELEASED), *backend.backward(grad_scores, *inputs, RELEASED)
    monkeypatch.setattr(launch, "SIMILARITY_BYTES", 1)
    monkeypatch.setattr(backend.launch_backward, "WORKSPACE_BYTES", 1)
    parts = backend.forward(*inputs, RELEASED), *backend.backward(grad_scores, *inputs, RELEASED)
    assert torch.equal(whole[0], parts[0])
    assert torch.equal(whole[1], parts[1])
    # The words are summed over the images in other groups.
    torch.testing.assert_close(whole[2], parts[2], **FLOAT32)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_sums_over_many_groups_of_images_err_no_more_than_one(dtype, monkeypatch):
    """The gradient of a word is summed over 24 images one by one, as itself and a rest: no more wrong than at once."""
    inputs = problem(24, 3, 5, 9, 16, dtype)
    grad_scores = torch.randn(24, 3, generator=torch.Generator().manual_seed(1))
    _, truth = gradients(double(inputs), RELEASED, grad_scores)
    _, whole = backend.backward(grad_scores, *inputs, RELEASED)
    monkeypatch.setattr(backend.launch_backward, "WORKSPACE_BYTES", 1)
    _, parts = backend.backward(grad_scores, *inputs, RELEASED)
    assert not torch.equal(whole, parts)
    assert error(parts, truth) <= 1.05 * error(whole, truth)


def test_the_same_inputs_give_the_same_bits():
    inputs = problem(*SHAPES["blocks"], torch.bfloat16)
    grad_scores = torch.randn(3, 7)
    first, second = (backend.backward(grad_scores, *inputs, RELEASED) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("name", ["paper", "released", "maxsim"])
def test_nan_shows_in_its_own_scores_only(name):
    inputs = images, texts = problem(*SHAPES["blocks"], torch.float32)
    clean = backend.forward(*inputs, SCORES[name])
    images.rows[images.starts[1], 2] = math.nan
    texts.rows[texts.starts[4], 0] = math.nan
    scores = backend.forward(*inputs, SCORES[name])
    hit = torch.zeros(3, 7, dtype=torch.bool)
    hit[1], hit[:, 4] = True, True
    assert torch.equal(scores.isnan(), hit)
    assert torch.equal(scores[~hit], clean[~hit])


def test_rows_of_no_item_get_no_gradient():
    inputs = problem(*SHAPES["blocks"], torch.float32)
    for side, gradient in zip(inputs, backend.backward(torch.ones(3, 7), *inputs, RELEASED), strict=True):
        nobodys = side.rows.isnan()
        assert torch.equal(gradient[nobodys], torch.zeros(int(nobodys.sum())))


def test_images_beyond_the_padding_score_nan():
    images, texts = problem(2, 2, 6, 4, 8, torch.float32)
    uneven = Ragged(images.rows.nan_to_num(), torch.tensor([0, 7]), torch.tensor([7, 5]))
    scores = backend.forward(uneven, texts, RELEASED)
    assert torch.equal(scores.isnan(), torch.tensor([[True, True], [False, False]]))
    assert images.starts[1] == 6


def test_texts_beyond_the_longest_run_score_nan():
    words = tiles.LONGEST_RUN * 32 + 1
    images = Ragged(torch.randn(2, 8), torch.tensor([0]), torch.tensor([2]))
    texts = Ragged(torch.randn(words + 3, 8), torch.tensor([0, words]), torch.tensor([words, 3]))
    scores = backend.forward(images, texts, LocalScore(similarity="dot"))
    assert torch.equal(scores.isnan(), torch.tensor([[True, False]]))


@settings(max_examples=30)
@given(st.lists(st.integers(1, 200), min_size=1, max_size=60))
def test_slotted_plan_holds_every_word_once(lengths):
    lengths = torch.tensor(lengths)
    starts = lengths.cumsum(0) - lengths
    plan = tiles.slotted(starts, lengths, int(lengths.sum()), 32)
    used = plan.rows[plan.rows >= 0]
    assert torch.equal(used.sort().values, torch.arange(int(lengths.sum()), dtype=torch.int32))
    assert (plan.rows[int(plan.in_use) :] < 0).all()
    owner = torch.repeat_interleave(torch.arange(lengths.numel()), lengths)
    by_slot = plan.rows.view(-1, tiles.SLOTS, 4)
    texts = plan.texts[:, :, None].expand_as(by_slot)[by_slot >= 0]
    assert torch.equal(owner[by_slot[by_slot >= 0].long()], texts.long())
    for tile, span in enumerate(plan.spans.tolist()):
        # No run is cut where backward cuts.
        assert span == 0 or tile // tiles.LONGEST_RUN == (tile + span - 1) // tiles.LONGEST_RUN


@pytest.mark.parametrize("texts", [48, 256, 1024])
def test_reports_fill_the_tiles(texts):
    """Word counts of real reports: at least 80 % of the columns are words."""
    lengths = torch.tensor(draw_lengths(texts))
    plan = tiles.slotted(lengths.cumsum(0) - lengths, lengths, int(lengths.sum()), 128)
    assert lengths.sum() / (plan.in_use * 128) >= 0.8
    dense = tiles.dense(lengths.cumsum(0) - lengths, lengths, int(lengths.sum()), 128)
    assert dense.in_use == -(-int(lengths.sum()) // 128)


@pytest.mark.parametrize("name", ["released", "paper"])
def test_torch_sees_an_op_like_any_other(name):
    inputs = problem(2, 3, 9, 5, 8, torch.float32)
    learned = [side._replace(rows=side.rows.nan_to_num().requires_grad_()) for side in inputs]
    torch.library.opcheck(ops.scores, ops.flattened(*learned, SCORES[name], "triton"))
    plain = [side._replace(rows=side.rows.detach()) for side in learned]
    torch.library.opcheck(ops.scores_backward, (torch.randn(2, 3), *ops.flattened(*plain, SCORES[name], "triton")))


def test_the_public_loss_is_that_of_the_reference():
    v, t = (torch.randn(4, 6, 5, 5) / 2).requires_grad_(), (torch.randn(4, 7, 6) / 2).requires_grad_()
    found = []
    for backend_name in ("triton", "reference"):
        losses = local_contrastive_loss(v, t, word_lengths=[7, 1, 4, 6], backend=backend_name)
        found.append((*losses, *torch.autograd.grad(sum(losses), (v, t))))
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, **FLOAT32)


def test_float32_follows_the_precision_of_torch():
    assert precision(torch.float32, "highest") == Precision(torch.float32, "ieee", "ieee")
    assert precision(torch.float32, "high") == Precision(torch.float32, "tf32x3", "tf32x3")


def test_too_many_regions_for_the_workspace_are_refused(monkeypatch):
    monkeypatch.setattr(backend.launch_backward, "LARGEST_BYTES", 1 << 10)
    inputs = problem(*SHAPES["one"], torch.float32)
    with pytest.raises(NotImplementedError, match="for one image of 1 regions in backward"):
        backend.backward(torch.ones(1, 1), *inputs, RELEASED)


def test_the_interpreter_takes_cpu_tensors_only():
    assert backend.unavailable() is None
    assert backend.unsupported(RELEASED, torch.bfloat16, torch.device("cpu")) is None
    assert "computes on cpu tensors, not on cuda:0" in backend.unsupported(
        RELEASED, torch.float32, torch.device("cuda:0")
    )
