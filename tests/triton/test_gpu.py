"""The Triton kernels on a GPU: right for every knob, at real shapes, repeatable, in fixed memory, capturable."""

import dataclasses
import os

import pytest
import torch

pytest.importorskip("triton")

from checking import DTYPES, SCORES, check_backward, check_forward, problem
from kernel_checks import assert_as_accurate, eager, fused, names_of
from problems import LEARNED_SCORES, Problem
from problems import problem as given_problem
from triton import knobs

from gloria_ops import LocalScore, local_contrastive_loss, local_scores
from gloria_ops.backends import triton as backend
from gloria_ops.backends.triton import problem as triton_problem

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
RELEASED = LocalScore.released()
PRESETS = {"released": RELEASED, "paper": LocalScore.paper(0.1, 0.2), "maxsim": LocalScore.maxsim()}
# images, texts, M, W, D: the released batch's regions and width, and sizes that fill no block
SHAPES = {"released": (6, 9, 361, 97, 768), "odd": (5, 11, 70, 33, 100), "one": (1, 1, 1, 1, 3)}


@pytest.fixture(autouse=True)
def exact_products():
    """float32 rows are multiplied exactly, by the kernels and by the eager code that they are held to."""
    torch.set_float32_matmul_precision("highest")


def batch(images, texts, dtype, regions=361, words=97, dim=768, seed=0):
    """Padded regions, padded words and their lengths, on the GPU."""
    random = torch.Generator("cuda").manual_seed(seed)
    lengths = torch.randint(5, words + 1, (texts,), generator=random, device="cuda")
    v = torch.randn(images, regions, dim, generator=random, device="cuda") * dim**-0.25
    t = torch.randn(texts, words, dim, generator=random, device="cuda") * dim**-0.25
    return v.to(dtype).requires_grad_(), t.to(dtype).requires_grad_(), lengths


@pytest.mark.parametrize("shape", ["released", "odd"])
@pytest.mark.parametrize("name", ["released", "paper"])
def test_first_look(name, shape):
    """What a GPU is asked first: forward and backward are right, and the same bits twice."""
    inputs = problem(*SHAPES[shape], torch.bfloat16, device="cuda")
    check_forward(inputs, SCORES[name])
    check_backward(inputs, SCORES[name])
    grad_scores = torch.ones(inputs[0].starts.numel(), inputs[1].starts.numel(), device="cuda")
    first, second = (
        (backend.forward(*inputs, SCORES[name]), *backend.backward(grad_scores, *inputs, SCORES[name]))
        for _ in range(2)
    )
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", SCORES)
def test_scores_and_gradients_err_no_more_than_eager(name, shape, dtype):
    inputs = problem(*SHAPES[shape], dtype, device="cuda")
    slack = 10 if shape == "one" else 1
    check_forward(inputs, SCORES[name], slack)
    check_backward(inputs, SCORES[name], slack)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("name", ["released", "paper", "scan_t2i"])
def test_long_texts(name, dtype):
    inputs = problem(3, 4, 196, 512, 256, dtype, device="cuda")
    check_forward(inputs, SCORES[name])
    check_backward(inputs, SCORES[name])


def test_float32_by_three_tf32_products():
    torch.set_float32_matmul_precision("high")
    check_forward(problem(*SHAPES["released"], torch.float32, device="cuda"), RELEASED)


@pytest.mark.parametrize("name", PRESETS)
def test_the_same_inputs_give_the_same_bits(name):
    v, t, lengths = batch(32, 40, torch.bfloat16)

    def step():
        scores = local_scores(v, t, word_lengths=lengths, score=PRESETS[name], backend="triton")
        return scores, *torch.autograd.grad(scores.square().sum(), (v, t))

    first = step()
    for _ in range(5):
        assert all(torch.equal(a, b) for a, b in zip(first, step(), strict=True))


def test_a_score_does_not_depend_on_its_neighbors():
    v, t, lengths = batch(16, 24, torch.bfloat16)
    many = local_scores(v, t, word_lengths=lengths, score=RELEASED, backend="triton")
    for image, text in ((0, 0), (7, 11), (15, 23)):
        one = local_scores(
            v[image, None], t[text, None], word_lengths=lengths[text, None], score=RELEASED, backend="triton"
        )
        assert torch.equal(one[0, 0], many[image, text])


@pytest.mark.parametrize("images", [64, 512])
def test_memory_does_not_grow_with_the_batch(images):
    v, t, lengths = batch(images, images, torch.bfloat16)
    step = lambda: local_scores(v, t, word_lengths=lengths, score=RELEASED, backend="triton")  # noqa: E731
    torch.autograd.grad(step().sum(), (v, t))
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    scores = step()
    gradients = torch.autograd.grad(scores.sum(), (v, t))
    extra = torch.cuda.max_memory_allocated() - before - sum(each.nbytes for each in (scores, *gradients))
    # The workspace, the packed words, and the rest of their gradients.
    assert extra <= triton_problem.WORKSPACE_BYTES + 2 * 2 * t.numel() + (8 << 20)


@pytest.mark.parametrize("learns", [False, True])
def test_no_call_waits_for_the_gpu_nor_compiles_for_another_batch(learns):
    def step(images, texts, seed):
        v, t, lengths = batch(images, texts, torch.bfloat16, seed=seed)
        learned = {}
        if learns:
            scales = {name: torch.full((), 4.0, device="cuda") for name in ("attention_scale", "word_scale")}
            learned = {"word_weights": torch.rand(t.shape[:2], device="cuda"), **scales}
        leaves = (v, t, *(each.requires_grad_() for each in learned.values()))
        torch.cuda.set_sync_debug_mode("error")
        try:
            scores = local_scores(v, t, word_lengths=lengths, score=RELEASED, backend="triton", **learned)
            torch.autograd.grad(scores.sum(), leaves)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    # One chunk of images, and several, with a rest of the words' gradients.
    step(8, 16, 0)
    step(64, 512, 0)
    made = []
    knobs.runtime.jit_post_compile_hook = lambda **given: made.append(given["fn"].name)
    try:
        for seed, (images, texts) in enumerate([(16, 16), (7, 13), (33, 5), (1, 1), (70, 300)]):
            step(images, texts, seed)
    finally:
        knobs.runtime.jit_post_compile_hook = None
    assert not made


def test_a_step_is_captured_in_a_graph_and_replayed_with_other_inputs():
    v, t, lengths = batch(12, 12, torch.bfloat16)

    def step():
        losses = local_contrastive_loss(v, t, word_lengths=lengths, score=RELEASED, backend="triton")
        return torch.stack(losses), *torch.autograd.grad(sum(losses), (v, t))

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    others = batch(12, 12, torch.bfloat16, seed=5)
    with torch.no_grad():
        for own, other in zip((v, t, lengths), others, strict=True):
            own.copy_(other)
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(captured, step(), strict=True))


def test_the_loss_compiles_into_one_graph():
    v, t, lengths = batch(8, 8, torch.bfloat16)

    def loss(v, t, lengths):
        return sum(local_contrastive_loss(v, t, word_lengths=lengths, score=RELEASED, backend="triton"))

    plain, compiled = loss(v, t, lengths), torch.compile(loss, fullgraph=True)(v, t, lengths)
    torch.testing.assert_close(compiled, plain)
    for a, b in zip(torch.autograd.grad(compiled, (v, t)), torch.autograd.grad(plain, (v, t)), strict=True):
        torch.testing.assert_close(a, b)


def test_the_current_stream_is_used():
    v, t, lengths = batch(8, 8, torch.bfloat16)
    plain = local_scores(v, t, word_lengths=lengths, score=RELEASED, backend="triton")
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(50_000_000)
        changed = v.detach() * 1
        scores = local_scores(changed, t, word_lengths=lengths, score=RELEASED, backend="triton")
    side.synchronize()
    assert torch.equal(scores, plain)


@pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.mem_get_info()[1] < 40 << 30, reason="the card has less than 40 GiB"
)
def test_regions_beyond_two_to_the_31_elements():
    images = 2**31 // (361 * 768) + 8
    random = torch.Generator("cuda").manual_seed(0)
    v = torch.randn(images, 361, 768, generator=random, device="cuda", dtype=torch.bfloat16).requires_grad_()
    _, t, lengths = batch(1, 2, torch.bfloat16)
    scores = local_scores(v, t, word_lengths=lengths, score=RELEASED, backend="triton")
    last = local_scores(v[-4:], t, word_lengths=lengths, score=RELEASED, backend="triton")
    assert torch.equal(scores[-4:], last)
    (gradient,) = torch.autograd.grad(scores[-4:].sum(), v)
    own = v.detach()[-4:].clone().requires_grad_()
    (expected,) = torch.autograd.grad(
        local_scores(own, t, word_lengths=lengths, score=RELEASED, backend="triton").sum(), own
    )
    assert torch.equal(gradient[-4:], expected)
    assert not gradient[:-4].any()


@pytest.mark.parametrize("pool", ["mean", "sum", "max", "softmax"])
def test_pools(pool):
    inputs = problem(*SHAPES["odd"], torch.bfloat16, device="cuda")
    score = dataclasses.replace(RELEASED, pool=pool)
    check_forward(inputs, score)
    check_backward(inputs, score)


@pytest.mark.parametrize("name", ["released", "scan_t2i", "smooth_max", "maxsim_mean"])
def test_what_is_learned(name):
    score = LEARNED_SCORES[name]
    one = given_problem("random", 6, 9, 70, 33, 100).learning(score)
    learned = {key: each.cuda() for key, each in one.learned.items()}
    one = Problem(*(each.cuda() for each in one[:-1]), learned).to(torch.float32)
    results = fused(one, score, "triton"), eager(one, score), eager(one.to(torch.float64), score)
    # One number has no typical error of eager PyTorch.
    assert_as_accurate(*results, slack=10, names=names_of(one))


def test_the_backend_is_not_interpreted():
    assert "TRITON_INTERPRET" not in os.environ
    assert backend.unavailable() is None
