"""The CUDA kernels, emulated, against the formulas in float64."""

import math
from dataclasses import replace

import pytest
import torch
from cuda_checks import LONG, SCHEDULES, SCORES, assert_as_accurate, eager, scores
from problems import POOLS, problem
from tolerances import ANY_SHAPE

from gloria_ops import LocalScore, local_scores
from gloria_ops.backends import cuda
from gloria_ops.backends.cuda import device
from gloria_ops.backends.cuda import scores as cuda_scores
from gloria_ops.tokens import Ragged

DTYPES = (torch.bfloat16, torch.float16)
# images, texts, M, W, D: several texts in a tile; several passes, of steps enough to begin beside the code for the one
# before; texts of several tiles; more passes than fit on chip; one of everything; more regions than the width makes
# worth a Gram matrix.
SHAPES = {
    "short texts": (2, 9, 70, 20, 24),
    "several passes": (1, 6, 270, 20, 300),
    "long texts": (2, 3, 150, 300, 72),
    "off chip": (2, 3, 400, 40, 232),
    "one": (1, 1, 1, 1, 3),
    "direct": (2, 5, 140, 30, 72),
}


@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        (shape, dtype)
        for shape in SHAPES
        for dtype in DTYPES
        if dtype == torch.bfloat16 or shape == "short texts" or LONG
    ],
    ids=str,
)
def test_scores_err_no_more_than_eager(kernels, shape, score, dtype):
    given = problem("random", *SHAPES[shape], seed=1).to(dtype)
    for schedule in SCHEDULES:
        kernels.set_schedule(schedule)
        # One pair has no typical error of eager PyTorch.
        assert_as_accurate(scores(given, score), given, score, slack=ANY_SHAPE if shape == "one" else 1)


@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_every_pool(kernels, pool):
    kind, mean, divide = pool
    score = LocalScore(pool=kind, pool_mean=mean, pool_divide=divide)
    given = problem("correlated", 3, 4, 33, 50, 40).to(torch.bfloat16)
    assert_as_accurate(scores(given, score), given, score)


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_a_text_far_below_its_neighbor_in_the_tile(kernels, similarity):
    """Stabilized by a maximum of both, the lower one's exponentials would all vanish."""
    score = LocalScore(similarity=similarity)
    given = problem("random", 2, 2, 40, 12, 24)
    for below in (87, 200, 1000):
        # The first component of every region is 1; that of the words of the second text moves its affinities.
        regions, words = given.regions.clone(), given.words.clone()
        regions[..., 0], words[0, :, 0], words[1, :, 0] = 1, 0, -below
        moved = given._replace(regions=regions, words=words).to(torch.bfloat16)
        assert_as_accurate(scores(moved, score), moved, score)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["released", "none, cosine"])
def test_contexts_that_nearly_cancel(kernels, name, dtype):
    """Regions centered over the image, at a flat attention: a^T G a alone has no digit left."""
    given = problem("random", 2, 6, 49, 30, 128)
    regions = torch.zeros_like(given.regions)
    for image, length in enumerate(given.region_lengths.tolist()):
        own = given.regions[image, :length]
        regions[image, :length] = own - own.mean(0)
    given = given._replace(regions=regions).to(dtype)
    score = replace(SCORES[name], attention_scale=min(SCORES[name].attention_scale, 0.5))
    assert_as_accurate(scores(given, score), given, score)


def test_a_word_that_goes_the_direct_way_goes_alone(kernels):
    """Its neighbors in the tile keep their bits, and it has those that it has alone."""
    random = torch.Generator().manual_seed(0)
    regions = torch.randn(1, 40, 64, generator=random)
    regions = torch.cat([regions, -regions], 1).bfloat16()
    words = torch.randn(2, 9, 64, generator=random)
    words[1] *= 1e-3
    score = LocalScore(word_norm="none", attention_scale=1.0)
    together = local_scores(regions, words.bfloat16(), score=score, backend="cuda")
    apart = [local_scores(regions, words[i : i + 1].bfloat16(), score=score, backend="cuda") for i in range(2)]
    assert torch.equal(together, torch.cat(apart, 1))


@pytest.mark.parametrize("name", ["paper", "released"])
def test_a_batch_of_one_gives_the_bits_of_its_row(kernels, name):
    given = problem("random", 3, 7, 60, 40, 48).to(torch.float16)
    together = scores(given, SCORES[name])
    for image, text in [(0, 0), (1, 3), (2, 6)]:
        alone = given._replace(
            regions=given.regions[image : image + 1],
            words=given.words[text : text + 1],
            region_lengths=given.region_lengths[image : image + 1],
            word_lengths=given.word_lengths[text : text + 1],
        )
        assert torch.equal(scores(alone, SCORES[name])[0, 0], together[image, text])


@pytest.mark.parametrize("name", ["paper", "released", "maxsim"])
def test_nan_shows_in_its_own_scores_only(kernels, name):
    given = problem("random", 2, 6, 30, 12, 24).to(torch.bfloat16)
    clean = scores(given, SCORES[name])
    regions, words = given.regions.clone(), given.words.clone()
    regions[1, 0] = math.nan
    words[3, 0] = math.nan
    found = scores(given._replace(regions=regions, words=words), SCORES[name])
    own = torch.zeros_like(clean, dtype=torch.bool)
    own[1], own[:, 3] = True, True
    assert found[own].isnan().all()
    assert torch.equal(found[~own], clean[~own])


@pytest.mark.parametrize("name", ["paper", "released"])
@pytest.mark.parametrize("power", [-40, 40])
def test_magnitudes(kernels, name, power):
    given = problem("random", 2, 3, 30, 12, 24)
    scaled = given._replace(regions=given.regions * 2.0**power, words=given.words * 2.0**-power).to(torch.bfloat16)
    assert_as_accurate(scores(scaled, SCORES[name]), scaled, SCORES[name])


def test_the_floor_of_the_cosine(kernels):
    """Where |c| |t| is below 1e-8 the similarity is d / 1e-8."""
    given = problem("random", 2, 3, 30, 12, 24)
    tiny = given._replace(regions=given.regions * 2.0**-20, words=given.words * 2.0**-20).to(torch.bfloat16)
    score = LocalScore(pool="sum")
    assert eager(tiny.to(torch.float64), score).abs().max() < 1e-3
    assert_as_accurate(scores(tiny, score), tiny, score)


def test_chunks_of_images_change_nothing(kernels, monkeypatch):
    given = problem("random", 5, 4, 50, 12, 24).to(torch.bfloat16)
    whole = scores(given, SCORES["released"])
    monkeypatch.setattr(cuda_scores, "WORKSPACE_BYTES", 1)
    assert torch.equal(scores(given, SCORES["released"]), whole)


@pytest.mark.parametrize("name", ["paper", "released"])
def test_any_number_of_blocks_gives_the_same_bits(kernels, name):
    given = problem("random", 3, 12, 50, 40, 24).to(torch.bfloat16)
    whole = scores(given, SCORES[name])
    for processors in (4, 7):
        with device.emulated_by(kernels, processors, device.emulated.hopper):
            assert torch.equal(scores(given, SCORES[name]), whole)


def test_an_image_longer_than_its_share_of_the_rows_has_no_score(kernels):
    given = problem("random", 2, 3, 10, 5, 24).to(torch.bfloat16)
    images = Ragged(given.regions.flatten(0, 1), torch.tensor([0, 3]), torch.tensor([3, 17]))
    texts = Ragged(given.words.flatten(0, 1), torch.arange(3) * 5, given.word_lengths)
    found = cuda.forward(images, texts, SCORES["paper"])
    assert found[0].isfinite().all()
    assert found[1].isnan().all()


@pytest.mark.parametrize("name", ["paper", "released", "none, cosine"])
def test_an_image_without_regions_changes_no_other(kernels, name):
    """On a GPU the host does not see the lengths, and cannot refuse it."""
    given = problem("random", 2, 3, 10, 5, 24).to(torch.bfloat16)
    texts = Ragged(given.words.flatten(0, 1), torch.arange(3) * 5, given.word_lengths)
    rows, starts = given.regions.flatten(0, 1), torch.tensor([0, 10])
    whole, without = (
        cuda.forward(Ragged(rows, starts, torch.tensor([length, 10])), texts, SCORES[name]) for length in (10, 0)
    )
    assert torch.equal(without[1], whole[1])
