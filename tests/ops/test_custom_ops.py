"""What torch sees: opcheck, compile, export, torch.func, autocast, and a clear refusal to differentiate twice."""

import pytest
import torch
from problems import LEARNED_SCORES, PRESETS, problem
from tolerances import FLOAT32

from gloria_ops import LocalScore, hinge_loss, local_contrastive_loss, local_pair_scores, local_scores, ops
from gloria_ops.learnable import Learnable
from gloria_ops.tokens import canonical

ONE = problem("random", images=4, texts=4, most_regions=12, most_words=7, width=8).to(torch.float32)
CHECKED = ["released", "paper", "scan_t2i", "maxsim"]


def arguments(name, dtype=torch.float32):
    """What the op takes, the rows without gradient."""
    rounded = ONE.to(dtype)
    batch = canonical(rounded.regions, rounded.words, **rounded.lengths)
    return ops.flattened(batch.images, batch.texts, PRESETS[name], "cpu")


def loss(regions, words, word_lengths):
    return sum(local_contrastive_loss(regions, words, word_lengths=word_lengths))


def with_gradients(function, *inputs):
    inputs = [each.clone().requires_grad_() for each in inputs]
    value = function(*inputs, ONE.word_lengths)
    return value.detach(), *torch.autograd.grad(value, inputs)


@pytest.fixture
def _fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", CHECKED)
def test_opcheck_scores(name, dtype):
    given = list(arguments(name, dtype))
    given[0], given[3] = given[0].requires_grad_(), given[3].requires_grad_()
    torch.library.opcheck(ops.scores, (name == "maxsim", *given))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", CHECKED)
def test_opcheck_scores_backward(name, dtype):
    given = arguments(name, dtype)
    _, best = ops.scores(name == "maxsim", *given)
    torch.library.opcheck(ops.scores_backward, (ONE.cotangent.float(), best, *given))


PAIRS = torch.tensor([[0, 1], [3, 3], [0, 1], [2, 0]])
KNOBS = {"weights and scales": ("softmax_pool", None), "pairs": ("smooth_max", PAIRS)}


def everything(knobs):
    """What the op takes with all that is learned, and what may need a gradient."""
    name, pairs = KNOBS[knobs]
    one = ONE.learning(LEARNED_SCORES[name])
    batch = canonical(one.regions, one.words, **one.lengths)
    learnable = Learnable(**{key: value.float().flatten() for key, value in one.learned.items()})
    learnable = Learnable(learnable.word_weights, *(each.reshape(()) for each in learnable[1:]))
    return ops.flattened(batch.images, batch.texts, LEARNED_SCORES[name], "cpu", learnable, pairs)


@pytest.mark.parametrize("knobs", KNOBS)
def test_opcheck_what_is_learned(knobs):
    given = everything(knobs)
    cotangent = ONE.cotangent.float() if KNOBS[knobs][1] is None else torch.ones(len(PAIRS))
    best = torch.empty(0, dtype=torch.int32)
    torch.library.opcheck(ops.scores_backward, (cotangent, best, *given))
    for each in given:
        if isinstance(each, torch.Tensor) and each.is_floating_point():
            each.requires_grad_()
    torch.library.opcheck(ops.scores, (False, *given))


def of_everything(regions, words, weights, attention_scale, word_scale, pairs):
    described = {"word_weights": weights, "attention_scale": attention_scale, "word_scale": word_scale}
    score = LEARNED_SCORES["softmax_pool"]
    chosen = local_pair_scores(regions, words, pairs, score=score, **described)
    return local_scores(regions, words, score=score, **described).square().sum() + chosen.sum()


def learned_inputs():
    learned = ONE.learning(LEARNED_SCORES["softmax_pool"]).learned
    return ONE.regions, ONE.words, *(value.float() for value in learned.values())


@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize("how", ["compiled", "torch.func"])
def test_what_is_learned_in_one_graph_and_under_torch_func(how):
    inputs = [each.clone().requires_grad_() for each in learned_inputs()]
    expected = torch.autograd.grad(of_everything(*inputs, PAIRS), inputs)
    if how == "compiled":
        compiled = torch.compile(of_everything, fullgraph=True, backend="aot_eager")
        ours = torch.autograd.grad(compiled(*inputs, PAIRS), inputs)
    else:
        ours = torch.func.grad(of_everything, argnums=tuple(range(5)))(*learned_inputs(), PAIRS)
    for gradient, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(gradient, other, **FLOAT32)


@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_to_one_graph_forward_and_backward(dynamic):
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for ours, expected in zip(
        with_gradients(compiled, ONE.regions, ONE.words), with_gradients(loss, ONE.regions, ONE.words), strict=True
    ):
        torch.testing.assert_close(ours, expected, **FLOAT32)


@pytest.mark.usefixtures("_fresh_compiler")
def test_compiles_with_inductor():
    compiled = torch.compile(loss, fullgraph=True)
    for ours, expected in zip(
        with_gradients(compiled, ONE.regions, ONE.words), with_gradients(loss, ONE.regions, ONE.words), strict=True
    ):
        torch.testing.assert_close(ours, expected, **FLOAT32)


@pytest.mark.usefixtures("_fresh_compiler")
def test_compiles_with_every_layout():
    """Masks, packed words, feature maps, pairs left out and regions that attend, each in one graph."""
    real = torch.arange(7) < ONE.word_lengths[:, None]
    offsets = torch.nn.functional.pad(ONE.word_lengths.cumsum(0), (1, 0))
    maps = ONE.regions.transpose(1, 2).reshape(4, 8, 3, 4)
    score = LocalScore.scan_i2t()

    def layouts(words, packed, maps, real, offsets, pairs):
        masked = local_contrastive_loss(maps, words, word_mask=real, pair_mask=pairs)
        listed = local_scores(maps, words, word_lengths=[7, 1, 2, 3])
        return sum(masked), listed, local_scores(maps, packed, word_offsets=offsets, score=score)

    given = (ONE.words, ONE.words[real], maps, real, offsets, torch.eye(4, dtype=torch.bool).logical_or(real[:, :4]))
    compiled = torch.compile(layouts, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*given), layouts(*given), **FLOAT32)


def test_exports():
    class Scores(torch.nn.Module):
        def forward(self, regions, words, word_lengths):
            return local_scores(regions, words, word_lengths=word_lengths)

    given = (ONE.regions, ONE.words, ONE.word_lengths)
    exported = torch.export.export(Scores(), given)
    assert "gloria_ops.scores" in exported.graph_module.code
    assert torch.equal(exported.module()(*given), Scores()(*given))


class _Called(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


def of_size(images, texts, most_regions, most_words, width):
    """Inputs of every layout, by the name of what takes them."""
    one = problem("random", images, texts, most_regions, most_words, width).to(torch.float32)
    real = torch.arange(one.words.shape[1]) < one.word_lengths[:, None]
    offsets = torch.nn.functional.pad(one.word_lengths.cumsum(0), (1, 0))
    maps = one.regions.transpose(1, 2).unflatten(2, (-1, 2))
    pairs = min(images, texts)
    return {
        "lengths": (one.regions, one.words, one.word_lengths, one.region_lengths),
        "mask": (one.regions, one.words, real),
        "packed": (one.regions, one.words[real], offsets),
        "maps, i2t": (maps, one.words),
        "hinge": (one.regions[:pairs], one.words[:pairs]),
        "loss": (one.regions[:pairs], one.words[:pairs], torch.eye(pairs, dtype=torch.bool)),
    }


def _described(*names, function=local_scores, **settings):
    return lambda regions, words, *rest: function(regions, words, **dict(zip(names, rest, strict=True)), **settings)


LAYOUTS = {
    "lengths": _described("word_lengths", "region_lengths"),
    "mask": _described("word_mask"),
    "packed": _described("word_offsets"),
    "maps, i2t": _described(score=LocalScore.scan_i2t()),
    "hinge": lambda regions, words: hinge_loss(local_scores(regions, words)),
    "loss": _described("pair_mask", function=local_contrastive_loss),
}


@pytest.mark.parametrize("strict", [False, True], ids=["traced", "strict"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_exports_with_every_size_dynamic(layout, strict):
    """Images, texts, regions, words and the width: exported at one size, run at another."""
    given, other = of_size(4, 5, 12, 7, 8)[layout], of_size(3, 6, 10, 9, 5)[layout]
    dynamic = tuple(dict.fromkeys(range(each.dim()), torch.export.Dim.DYNAMIC) for each in given)
    exported = torch.export.export(_Called(LAYOUTS[layout]), given, dynamic_shapes=(dynamic,), strict=strict)
    for inputs in (given, other):
        torch.testing.assert_close(exported.module()(*inputs), LAYOUTS[layout](*inputs), **FLOAT32)


@pytest.mark.parametrize("strict", [False, True], ids=["traced", "strict"])
@pytest.mark.parametrize(("side", "size"), [(0, 0), (0, 1), (1, 0), (1, 1)], ids=["N_v", "M", "N_t", "W"])
def test_exports_with_one_size_dynamic(side, size, strict):
    """The others fixed, which leaves torch other equations to solve."""
    given = of_size(4, 5, 12, 7, 8)["lengths"][:2]
    dynamic = [None, None]
    dynamic[side] = {size: torch.export.Dim("size", max=500)}
    exported = torch.export.export(_Called(local_scores), given, dynamic_shapes=(tuple(dynamic),), strict=strict)
    other = list(given)
    other[side] = given[side].repeat_interleave(2, dim=size)
    torch.testing.assert_close(exported.module()(*other), local_scores(*other), **FLOAT32)


@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_compiled_dynamically_it_is_compiled_once(layout):
    compiled = torch.compile(LAYOUTS[layout], fullgraph=True, backend="aot_eager", dynamic=True)
    compiled(*of_size(4, 5, 12, 7, 8)[layout])
    with torch.compiler.set_stance("fail_on_recompile"):
        other = of_size(3, 6, 10, 9, 5)[layout]
        torch.testing.assert_close(compiled(*other), LAYOUTS[layout](*other), **FLOAT32)


def test_functional_gradients():
    gradients = torch.func.grad(loss, argnums=(0, 1))(ONE.regions, ONE.words, ONE.word_lengths)
    for ours, expected in zip(gradients, with_gradients(loss, ONE.regions, ONE.words)[1:], strict=True):
        assert torch.equal(ours, expected)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_vmapped_gradients():
    """Gradients of one loss for each of several sets of images."""
    stacked = torch.stack([ONE.regions, ONE.regions.flip(0)])
    gradients = torch.vmap(torch.func.grad(lambda regions: loss(regions, ONE.words, ONE.word_lengths)))(stacked)
    for regions, gradient in zip(stacked, gradients, strict=True):
        torch.testing.assert_close(gradient, with_gradients(loss, regions, ONE.words)[1], **FLOAT32)


def test_gradient_of_one_side_only():
    words = ONE.words.clone().requires_grad_()
    value = loss(ONE.regions, words, ONE.word_lengths)
    assert torch.equal(torch.autograd.grad(value, words)[0], with_gradients(loss, ONE.regions, ONE.words)[2])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_autocast_computes_in_its_dtype(backend, dtype):
    regions = ONE.regions.clone().requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        # One side that a linear layer has cast already, and one that nothing has.
        scores = local_scores(regions, ONE.words.to(dtype), backend=backend)
    assert scores.dtype == torch.float32
    assert torch.equal(scores, local_scores(ONE.regions.to(dtype), ONE.words.to(dtype), backend=backend))
    (gradient,) = torch.autograd.grad(scores.sum(), regions)
    assert gradient.dtype == torch.float32


def test_autocast_leaves_float64_and_the_loss_alone():
    double = ONE.to(torch.float64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert local_scores(double.regions, double.words).dtype == torch.float64
        losses = local_contrastive_loss(ONE.regions, ONE.words)
    rounded = ONE.to(torch.bfloat16)
    assert losses == local_contrastive_loss(rounded.regions, rounded.words)


@pytest.mark.usefixtures("_fresh_compiler")
def test_autocast_under_compile():
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = with_gradients(compiled, ONE.regions, ONE.words)
        expected = with_gradients(loss, ONE.regions, ONE.words)
    for each, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(each, other, **FLOAT32)


def test_double_backward_is_refused_with_the_way_out():
    regions = ONE.regions.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(regions, ONE.words, ONE.word_lengths), regions, create_graph=True)
    with pytest.raises(NotImplementedError, match=r'double backward .* take backend="reference"'):
        gradient.sum().backward()


def test_double_backward_is_refused_under_torch_func():
    def once(regions):
        return torch.func.grad(lambda each: loss(each, ONE.words, ONE.word_lengths))(regions).sum()

    with pytest.raises(NotImplementedError, match=r'double backward .* take backend="reference"'):
        torch.func.grad(once)(ONE.regions)


def test_double_backward_through_the_reference():
    regions = ONE.regions.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(
        local_scores(regions, ONE.words, backend="reference").sum(), regions, create_graph=True
    )
    gradient.square().sum().backward()
    assert regions.grad.isfinite().all()
    assert regions.grad.any()
