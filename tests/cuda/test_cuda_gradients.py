"""The gradients of the CUDA backend, emulated, against the formulas in float64."""

import math

import emulation
import pytest
import torch
from cuda_checks import LONG, SCHEDULES, SCORES, assert_gradients_as_accurate, gradients
from problems import POOLS, PRESETS, problem
from tolerances import ANY_SHAPE, BACKWARD, error, rounding

from gloria_ops import LocalScore
from gloria_ops.backends import cuda
from gloria_ops.backends.cuda import device
from gloria_ops.backends.cuda import gradients as cuda_gradients
from gloria_ops.tokens import Ragged

DTYPES = (torch.bfloat16, torch.float16)
# images, texts, M, W, D: several texts in a tile; several passes, of steps enough to begin beside the code for the one
# before; texts of several tiles; more passes than fit on chip; one of everything.
SHAPES = {
    "short texts": (2, 9, 70, 20, 24),
    "several passes": (1, 7, 270, 20, 300),
    "long texts": (2, 3, 60, 300, 40),
    "off chip": (1, 3, 400, 40, 136),
    "one": (1, 1, 1, 1, 3),
}
# Beyond short texts in bfloat16, the short profile takes what has code of its own there.
ELSEWHERE = {
    "short texts": ("released", "maxsim", "a scale that needs the maximum"),
    "several passes": ("released", "softmax, dot", "a scale that needs the maximum"),
    "long texts": ("released", "paper"),
    "off chip": ("none, cosine", "maxsim"),
    "one": ("released",),
}
CASES = [
    (shape, name, dtype)
    for shape in SHAPES
    for name in SCORES
    for dtype in DTYPES
    if LONG
    or (shape == "short texts" and dtype == torch.bfloat16)
    or (name in ELSEWHERE[shape] and (dtype == torch.float16) == (shape == "short texts"))
]


@pytest.mark.parametrize(("shape", "name", "dtype"), CASES, ids=str)
def test_gradients_err_no_more_than_eager(kernels, shape, name, dtype):
    # Of long texts with small affinities each word has too little of the softmax for its gradient to show.
    given = problem("random", *SHAPES[shape], seed=1, magnitudes=(3, 3) if shape == "long texts" else (1, 1)).to(dtype)
    for schedule in SCHEDULES:
        kernels.set_schedule(schedule)
        assert_gradients_as_accurate(given, SCORES[name], slack=ANY_SHAPE if shape == "one" else 1)


@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_every_pool(kernels, pool):
    kind, mean, divide = pool
    score = LocalScore(pool=kind, pool_mean=mean, pool_divide=divide)
    assert_gradients_as_accurate(problem("correlated", 2, 3, 12, 9, 40).to(torch.bfloat16), score)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("word_norm", ["softmax", "none"])
def test_contexts_that_nearly_cancel(kernels, word_norm, dtype):
    """Regions centered over the image, at a flat attention: the norms come from c."""
    score = LocalScore(word_norm=word_norm, attention_scale=0.5)
    assert_gradients_as_accurate(problem("centered", 2, 5, 49, 9, 32, seed=3).to(dtype), score)


@pytest.mark.parametrize("kind", ["centered", "nearly_equal"])
def test_small_differences_of_large_numbers(kernels, kind):
    assert_gradients_as_accurate(problem(kind, 2, 5, 36, 9, 32, seed=3).to(torch.bfloat16), SCORES["released"])


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
@pytest.mark.parametrize("word_norm", ["none", "softmax"])
def test_an_attention_that_is_all_at_one_region_has_no_gradient(kernels, word_norm, similarity):
    """One region: nothing but gs = gd a remains, whatever the scale that a maximum is subtracted for."""
    given = problem("random", 2, 3, 1, 6, 16).to(torch.bfloat16)
    steep, steeper = (
        gradients(given, LocalScore(word_norm=word_norm, attention_scale=scale, similarity=similarity))
        for scale in (50.0, 1e6 if word_norm == "none" else 1e3)
    )
    for one, other in zip(steep, steeper, strict=True):
        # The softmax is taken twice, in another order, and a scale of 1000 makes of its rounding 1e-4 of the attention.
        rounded = 0.0 if word_norm == "none" else 2.0**-7
        torch.testing.assert_close(one, other, rtol=rounded, atol=rounded * 1e-3)


def test_padding_behind_regions_that_all_words_dislike(kernels):
    """Relative to the maximum of such affinities, one of 0 would have an infinite attention."""
    given = problem("random", 2, 3, 20, 6, 16)
    regions, words = given.regions.clone(), given.words.clone()
    regions[..., 0], words[..., 0] = 1, -100
    moved = given._replace(regions=regions, words=words).to(torch.bfloat16)
    assert_gradients_as_accurate(moved, SCORES["none, cosine"])


def test_nan_shows_in_its_own_gradients_only(kernels):
    """A word of NaN spoils its text, and every region, but no other text."""
    given = problem("random", 2, 6, 30, 12, 24).to(torch.float16)
    words = given.words.clone()
    words[3, 0] = math.nan
    _, found = gradients(given._replace(words=words), SCORES["released"])
    _, clean = gradients(given, SCORES["released"])
    others = [0, 1, 2, 4, 5]
    assert found[3, : given.word_lengths[3]].isnan().all()
    torch.testing.assert_close(found[others], clean[others], rtol=2e-2, atol=2e-2 * clean.abs().max().item())
    assert found[others].isfinite().all()


@pytest.mark.parametrize("power", [-40, 40])
def test_magnitudes(kernels, power):
    given = problem("random", 2, 3, 30, 12, 24)
    scaled = given._replace(regions=given.regions * 2.0**power, words=given.words * 2.0**-power).to(torch.bfloat16)
    assert_gradients_as_accurate(scaled, SCORES["released"])


def test_gradients_of_any_magnitude_fit_float16(kernels):
    given = problem("random", 2, 3, 30, 12, 24).to(torch.float16)
    plain = gradients(given, SCORES["released"])
    small = gradients(given._replace(cotangent=given.cotangent * 2.0**-9), SCORES["released"])
    for one, other in zip(plain, small, strict=True):
        torch.testing.assert_close(other.float() * 2.0**9, one.float(), rtol=1e-3, atol=2.0**-15)


@pytest.mark.parametrize("name", ["paper", "released"])
def test_chunks_of_images_and_of_tiles(kernels, name, monkeypatch):
    given = problem("random", 3, 20, 30, 40, 24).to(torch.float16)
    monkeypatch.setattr(cuda_gradients, "WORKSPACE_BYTES", 1)
    assert_gradients_as_accurate(given, SCORES[name])


HEIGHT, TILE, WIDTH = 368, 128, 768
ROOM = (384 << 20) // 4


@pytest.mark.parametrize("processors", [108, 132])
@pytest.mark.parametrize("cosine", [False, True])
def test_a_chunk_has_room_and_leaves_little_of_a_gpu_idle(processors, cosine):
    images, tiles = cuda_gradients.sizes_of_chunk(1024, 403, HEIGHT, TILE, WIDTH, ROOM, processors, cosine)
    assert 0.6 * ROOM < images * tiles * HEIGHT * TILE <= ROOM
    blocks = [3 * images * HEIGHT / 128, 3 * tiles * TILE / 128] + [6 * images] * cosine
    waves = [each / processors for each in blocks]
    assert sum(waves) / sum(map(math.ceil, waves)) > 0.85


def test_a_chunk_is_all_there_is_or_one_of_each():
    assert cuda_gradients.sizes_of_chunk(3, 5, HEIGHT, TILE, WIDTH, ROOM, 132, True) == (3, 5)
    assert cuda_gradients.sizes_of_chunk(3, 5, HEIGHT, TILE, WIDTH, 0, 132, True) == (1, 1)


@pytest.mark.parametrize("name", ["paper", "released"])
def test_any_number_of_blocks_gives_the_same_bits(kernels, name):
    given = problem("random", 3, 12, 50, 40, 24).to(torch.bfloat16)
    whole = gradients(given, PRESETS[name])
    with device.emulated_by(kernels, 4, device.emulated.hopper):
        again = gradients(given, PRESETS[name])
    assert all(map(torch.equal, whole, again))


@pytest.mark.parametrize(("images", "height", "pitch"), [(3, 128, 256), (3, 16, 128), (2, 208, 384), (2, 544, 128)])
def test_the_gradient_of_gram_matrices(built, images, height, pitch):
    """Attention weighted by word, on and below the diagonal, added to what is there; above it nothing changes."""
    kernels = emulation.load(built)
    side = -(-height // kernels.ROWS) * kernels.ROWS
    random = torch.Generator().manual_seed(height)
    attention = torch.rand(images, height, pitch, generator=random).half()
    weights = torch.randn(images, pitch, generator=random).half()
    factors = torch.tensor([0.5, 2.0, 0.25])[:images]
    before = torch.randn(images, side, side, generator=random)
    block = torch.arange(side) // kernels.ROWS

    def sums(dtype):
        """By the formula; the weighted attention is rounded to float16, as the kernel's is."""
        added = factors.to(dtype)[:, None, None] * ((attention * weights[:, None]).to(dtype) @ attention.mT.to(dtype))
        added = torch.nn.functional.pad(added, (0, side - height, 0, side - height))
        return torch.where(block[:, None] >= block, before + added, before.to(dtype))[:, :height, :height]

    found = []
    for schedule, processors in enumerate((1, 2)):
        kernels.set_schedule(schedule)
        kernels.take_counters()
        with device.emulated_by(kernels, processors):
            found.append(before.clone())
            cuda_gradients.add_gram_gradient(found[-1], attention, weights * factors[:, None])
        assert kernels.take_counters()["conflicts"] == 0
    assert torch.equal(*found)
    ours, truth = found[0][:, :height, :height], sums(torch.float64)
    assert error(ours, truth) <= BACKWARD * error(sums(torch.float32), truth) + rounding(ours, truth)
    assert found[0].isfinite().all()
    assert torch.equal(found[0][:, block[:, None] < block], before[:, block[:, None] < block])


def test_rows_of_nobody_get_zeros_and_a_longer_image_nan(kernels):
    given = problem("random", 2, 3, 10, 5, 24).to(torch.bfloat16)
    images = Ragged(given.regions.flatten(0, 1), torch.tensor([0, 4]), torch.tensor([3, 12]))
    texts = Ragged(given.words.flatten(0, 1), torch.arange(3) * 5, torch.tensor([5, 2, 5]))
    regions, words = cuda.backward(torch.ones(2, 3), images, texts, SCORES["paper"])
    nobodys = torch.cat([regions[3:4], regions[16:], words[7:10]])
    assert nobodys.eq(0).all()
    assert regions[:3].isfinite().all()
    assert regions[4:14].isnan().all()
