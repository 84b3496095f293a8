"""The choice of a backend: by name it serves or refuses, by itself it steps down and says so once."""

import warnings

import pytest
import torch
from problems import PRESETS, problem
from tolerances import FLOAT32

from gloria_ops import LocalScore, backends, local_scores
from gloria_ops.backends import cpu, triton
from gloria_ops.pairs import pair_gradients, pair_scores, search_scores
from gloria_ops.tokens import canonical

RELEASED, CPU = LocalScore.released(), torch.device("cpu")
_RANDOM = torch.Generator().manual_seed(0)
REGIONS, WORDS = (torch.randn(shape, generator=_RANDOM) for shape in ((2, 6, 4), (3, 5, 4)))


@pytest.fixture
def extension_missing(monkeypatch):
    monkeypatch.setattr(cpu, "unavailable", lambda: "the compiled extension is missing; build it")


@pytest.fixture(autouse=True)
def no_warning_given(monkeypatch):
    monkeypatch.setattr(backends, "_warnings_given", set())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_kernels_are_the_automatic_choice(dtype):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert backends.choose(None, RELEASED, dtype, CPU) == "cpu"


def test_float64_is_what_the_reference_is_for():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert backends.choose(None, RELEASED, torch.float64, CPU) == "reference"


@pytest.mark.usefixtures("extension_missing")
def test_stepping_down_is_said_once():
    message = (
        "unfused backend='reference'.*for torch.float32 on cpu .cpu: the compiled extension is missing; build it.*"
        "gloria_ops.doctor"
    )
    with pytest.warns(RuntimeWarning, match=message):
        assert backends.choose(None, RELEASED, torch.float32, CPU) == "reference"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backends.choose(None, RELEASED, torch.float32, CPU)


@pytest.mark.usefixtures("extension_missing")
def test_the_warning_points_at_the_caller():
    with pytest.warns(RuntimeWarning) as said:
        local_scores(REGIONS, WORDS)
    assert said[0].filename == __file__


@pytest.mark.usefixtures("extension_missing")
def test_a_missing_extension_asked_for_by_name():
    with pytest.raises(
        RuntimeError, match="backend='cpu' cannot run here: the compiled extension is missing; build it"
    ):
        local_scores(REGIONS, WORDS, backend="cpu")


def test_an_unknown_name():
    with pytest.raises(
        ValueError, match="backend is 'tpu'; expected one of 'cpu', 'triton', 'reference', 'cuda', or None"
    ):
        local_scores(REGIONS, WORDS, backend="tpu")


def test_a_dtype_that_the_backend_lacks():
    message = r"backend='cpu' does not serve LocalScore\(word_norm='softmax'.*float64; take backend='reference'"
    with pytest.raises(NotImplementedError, match=message):
        local_scores(REGIONS.double(), WORDS.double(), backend="cpu")


@pytest.mark.parametrize("word_norm", ["l2", "l1", "clipped_l1", "clipped"])
def test_a_norm_that_only_the_reference_has(word_norm):
    score = LocalScore(word_norm=word_norm)
    lacking = f"lacks word_norm='{word_norm}': it has 'none', 'softmax', 'clipped_l2'; take backend='reference'"
    with pytest.raises(NotImplementedError, match=lacking):
        local_scores(REGIONS, WORDS, score=score, backend="cpu")
    with pytest.warns(RuntimeWarning, match=f"backend='reference', slow .* lacks word_norm='{word_norm}'"):
        scores = local_scores(REGIONS, WORDS, score=score)
    assert torch.equal(scores, local_scores(REGIONS, WORDS, score=score, backend="reference"))


def test_a_device_that_the_backend_lacks():
    with pytest.raises(NotImplementedError, match="CPU tensors, not on meta; take backend='reference'"):
        local_scores(REGIONS.to("meta"), WORDS.to("meta"), backend="cpu")


@pytest.fixture
def a_gpu(monkeypatch):
    """As far as the choice of a backend looks."""
    monkeypatch.setattr(triton, "unavailable", lambda: None)
    monkeypatch.setattr(triton, "unsupported", lambda score, dtype, device, learnable: triton.lacks(score, dtype))


@pytest.mark.usefixtures("a_gpu")
def test_cuda_tensors_go_to_triton_and_its_caution_is_said_once():
    with pytest.warns(RuntimeWarning, match="no run on a GPU is on record yet; `make gpu-check`"):
        assert backends.choose(None, RELEASED, torch.bfloat16, torch.device("cuda")) == "triton"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert backends.choose(None, RELEASED, torch.bfloat16, torch.device("cuda")) == "triton"


@pytest.mark.usefixtures("a_gpu")
def test_cuda_tensors_go_to_the_reference_for_what_triton_lacks():
    with pytest.warns(RuntimeWarning, match="triton: it lacks direction='i2t'"):
        assert backends.choose(None, LocalScore.scan_i2t(), torch.bfloat16, torch.device("cuda")) == "reference"


@pytest.mark.parametrize("name", ["released", "scan_i2t"])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_gradients_of_pairs_are_those_that_autograd_finds(backend, name):
    """Asked of the backend itself, as the ring does: the sides change roles and come back."""
    one = problem("random", images=3, texts=4, most_regions=7, most_words=5, width=8).to(torch.float32)
    regions, words = one.regions.clone().requires_grad_(), one.words.clone().requires_grad_()
    images, texts, _ = canonical(regions, words, **one.lengths)
    scores = pair_scores(images, texts, PRESETS[name], backend)
    torch.testing.assert_close(search_scores(images, texts, PRESETS[name], backend, 0), scores.detach(), **FLOAT32)
    expected = torch.autograd.grad(scores, (regions, words), one.cotangent.float())
    ours = pair_gradients(one.cotangent.float(), images, texts, PRESETS[name], backend)
    for gradient, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(gradient.view_as(other), other, **FLOAT32)
