"""The CUDA kernels on a GPU: right for every knob, at real shapes, repeatable, without a device sync."""

import pytest
import torch
from cuda_checks import SCORES, assert_as_accurate, assert_gradients_as_accurate, gradients, scores
from problems import Problem, problem
from tolerances import ANY_SHAPE

from gloria_ops.backends import cuda

pytestmark = pytest.mark.skipif(
    cuda.unavailable() is not None, reason=f"the CUDA kernels cannot run here: {cuda.unavailable()}"
)
# images, texts, M, W, D: the released batch's regions and width; sizes that fill no block; long texts; regions that do
# not fit on chip; more of them than the width makes worth a Gram matrix.
SHAPES = {
    "released": (6, 9, 361, 97, 768),
    "odd": (5, 11, 70, 33, 100),
    "one": (1, 1, 1, 1, 3),
    "long texts": (3, 4, 196, 512, 256),
    "off chip": (2, 5, 1024, 60, 768),
    "direct": (2, 5, 576, 60, 128),
}


def on_gpu(given: Problem) -> Problem:
    return Problem(*(each.cuda() for each in given))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", SCORES)
def test_scores_err_no_more_than_eager(name, shape, dtype):
    given = on_gpu(problem("random", *SHAPES[shape])).to(dtype)
    slack = ANY_SHAPE if shape == "one" else 1
    assert_as_accurate(scores(given, SCORES[name]), given, SCORES[name], slack)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", SCORES)
def test_gradients_err_no_more_than_eager(name, shape, dtype):
    given = on_gpu(problem("random", *SHAPES[shape])).to(dtype)
    assert_gradients_as_accurate(given, SCORES[name], ANY_SHAPE if shape == "one" else 1)


@pytest.mark.parametrize("name", ["released", "paper"])
def test_the_same_inputs_give_the_same_bits(name):
    given = on_gpu(problem("random", 64, 64, 361, 97, 768)).to(torch.bfloat16)
    first, of_first = scores(given, SCORES[name]), gradients(given, SCORES[name])
    for _ in range(3):
        assert torch.equal(scores(given, SCORES[name]), first)
        assert all(map(torch.equal, gradients(given, SCORES[name]), of_first))


def test_contexts_that_nearly_cancel():
    given = problem("random", 2, 6, 49, 30, 128)
    given = on_gpu(given._replace(regions=given.regions - given.regions.mean(1, keepdim=True)))
    full = given._replace(region_lengths=torch.full_like(given.region_lengths, 49)).to(torch.float16)
    assert_as_accurate(scores(full, SCORES["released"]), full, SCORES["released"])


def test_no_call_waits_for_the_device():
    given = on_gpu(problem("random", 4, 4, 49, 30, 128)).to(torch.bfloat16)
    scores(given, SCORES["released"], padding=0.0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        scores(given, SCORES["released"], padding=0.0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
