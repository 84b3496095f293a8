"""The public functions: layouts and directions agree, the loss is a cross entropy, maps are those of their pairs."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from problems import PRESETS, problem
from tolerances import FLOAT32, FLOAT64

from gloria_ops import LocalScore, attention_maps, cosines, local_contrastive_loss, local_scores

BACKENDS = ["cpu", "reference"]
ONE = problem("random", images=4, texts=4, most_regions=12, most_words=7, width=8)
SINGLE = ONE.to(torch.float32)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", PRESETS)
def test_layouts_agree_to_the_bit(backend, name):
    settings = {"score": PRESETS[name], "backend": backend}
    padded = local_scores(SINGLE.regions, SINGLE.words, word_lengths=SINGLE.word_lengths, **settings)
    real = torch.arange(7) < SINGLE.word_lengths[:, None]
    masked = local_scores(SINGLE.regions, SINGLE.words, word_mask=real, **settings)
    offsets = F.pad(SINGLE.word_lengths.cumsum(0), (1, 0))
    packed = local_scores(SINGLE.regions, SINGLE.words[real], word_offsets=offsets, **settings)
    maps = SINGLE.regions.reshape(4, 3, 4, 8).permute(0, 3, 1, 2)
    of_maps = local_scores(maps, SINGLE.words, word_lengths=SINGLE.word_lengths, **settings)
    for other in (masked, packed, of_maps):
        assert torch.equal(other, padded)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_come_back_in_the_layout_of_the_inputs(backend):
    real = torch.rand(4, 7) > 0.5
    real[:, 3] = True
    words = SINGLE.words.clone().requires_grad_()
    maps = SINGLE.regions.reshape(4, 3, 4, 8).permute(0, 3, 1, 2).clone().requires_grad_()
    scores = local_scores(maps, words, word_mask=real, backend=backend)
    grad_maps, grad_words = torch.autograd.grad(scores, (maps, words), SINGLE.cotangent.float())
    assert not grad_words[~real].any()
    for text in range(4):
        kept = words.detach()[text, None, real[text]].requires_grad_()
        column = local_scores(maps.detach(), kept, backend=backend)
        (expected,) = torch.autograd.grad(column, kept, SINGLE.cotangent[:, text, None].float())
        torch.testing.assert_close(grad_words[text, real[text]], expected[0], **FLOAT32)
    assert grad_maps.shape == maps.shape


@pytest.mark.parametrize("backend", BACKENDS)
def test_exchanging_sides_and_direction_transposes(backend):
    score = PRESETS["released"]
    words_attend = local_scores(SINGLE.regions, SINGLE.words, score=score, backend=backend, **SINGLE.lengths)
    exchanged = local_scores(
        SINGLE.words,
        SINGLE.regions,
        region_lengths=SINGLE.word_lengths,
        word_lengths=SINGLE.region_lengths,
        score=replace(score, direction="i2t"),
        backend=backend,
    )
    assert torch.equal(exchanged, words_attend.T)


def test_dtypes_of_scores():
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        rounded = ONE.to(dtype)
        scores = local_scores(rounded.regions, rounded.words, backend="reference")
        assert scores.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_a_score_of_another_kind_is_refused():
    with pytest.raises(TypeError, match=r"score is 'released'; expected a gloria_ops.LocalScore"):
        local_scores(SINGLE.regions, SINGLE.words, score="released")


def by_hand(scores, scale, reduction, mask=None):
    logits = scale * scores
    if mask is not None:
        logits = torch.where(mask, logits, -math.inf)
    reduced = {"mean": torch.mean, "sum": torch.sum, "none": torch.clone}[reduction]
    return tuple(reduced(each.logsumexp(1) - each.diagonal()) for each in (logits, logits.T))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", ["released", "paper", "scan_i2t"])
def test_loss_by_hand(name, reduction):
    score = PRESETS[name]
    scores = local_scores(ONE.regions, ONE.words, score=score, **ONE.lengths)
    losses = local_contrastive_loss(ONE.regions, ONE.words, score=score, reduction=reduction, **ONE.lengths)
    torch.testing.assert_close(losses, by_hand(scores, score.logit_scale, reduction), **FLOAT64)


def test_the_first_loss_ranks_texts_for_each_image():
    words = torch.eye(4)[[0, 1]].reshape(2, 1, 4)
    regions = torch.stack([torch.tensor([2.0, 0.9, 0, 0]), torch.tensor([0, 1.0, 0, 0])]).reshape(2, 1, 4)
    image_to_text, text_to_image = local_contrastive_loss(regions, words, score=LocalScore.maxsim())
    expected = by_hand(torch.tensor([[2.0, 0.9], [0.0, 1.0]]), 1, "mean")
    torch.testing.assert_close((image_to_text, text_to_image), expected, **FLOAT32)
    assert abs(image_to_text - text_to_image) > 0.05


def test_excluded_pairs_are_no_negatives():
    mask = torch.ones(4, 4, dtype=torch.bool)
    mask[0, 2] = mask[2, 0] = mask[3, 1] = False
    inputs = (ONE.regions.clone().requires_grad_(), ONE.words.clone().requires_grad_())
    losses = local_contrastive_loss(*inputs, pair_mask=mask, **ONE.lengths)
    torch.testing.assert_close(losses, by_hand(local_scores(*inputs, **ONE.lengths), 10, "mean", mask), **FLOAT64)
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(sum(losses), inputs))


def test_a_pair_alone_loses_nothing():
    losses = local_contrastive_loss(ONE.regions, ONE.words, pair_mask=torch.eye(4, dtype=torch.bool))
    assert [loss.item() for loss in losses] == [0, 0]


def test_logit_scale_is_learnable():
    scale = torch.tensor([3.0], requires_grad=True)
    loss = sum(local_contrastive_loss(SINGLE.regions, SINGLE.words, logit_scale=scale))
    as_number = sum(local_contrastive_loss(SINGLE.regions, SINGLE.words, logit_scale=3))
    torch.testing.assert_close(loss, as_number)
    assert torch.autograd.grad(loss, scale)[0].abs() > 0


LOSS_REFUSED = {
    "counts": (
        ONE.words[:3],
        {},
        ValueError,
        r"there are 4 images \(N_v\) and 3 texts \(N_t\); expected as many of one",
    ),
    "reduction": (
        ONE.words,
        {"reduction": "max"},
        ValueError,
        "reduction is 'max'; expected 'mean' .* or 'sum' .* or 'none'",
    ),
    "scale": (
        ONE.words,
        {"logit_scale": math.inf},
        ValueError,
        "logit_scale is inf; expected a number from 1.2e-38 to 3.4e\\+38",
    ),
    "scales": (
        ONE.words,
        {"logit_scale": torch.ones(2)},
        ValueError,
        r"logit_scale has the shape \(2,\); expected one",
    ),
    "mask kind": (ONE.words, {"pair_mask": torch.ones(4, 4)}, TypeError, "pair_mask is torch.float32; expected a bool"),
    "mask shape": (
        ONE.words,
        {"pair_mask": torch.ones(4, 3).bool()},
        ValueError,
        r"pair_mask has the shape \(4, 3\); ",
    ),
    "mask diagonal": (
        ONE.words,
        {"pair_mask": ~torch.eye(4, dtype=torch.bool)},
        ValueError,
        r"pair_mask\[0, 0\] is False; expected True on the diagonal",
    ),
    "mask device": (
        ONE.words,
        {"pair_mask": torch.ones(4, 4, dtype=torch.bool, device="meta")},
        ValueError,
        "pair_mask is on meta; expected cpu",
    ),
}


@pytest.mark.parametrize(("words", "settings", "error", "message"), LOSS_REFUSED.values(), ids=LOSS_REFUSED.keys())
def test_loss_refuses(words, settings, error, message):
    with pytest.raises(error, match=message):
        local_contrastive_loss(ONE.regions, words, **settings)


@pytest.mark.parametrize("name", PRESETS)
def test_maps_of_matched_pairs(name):
    score = PRESETS[name]
    maps = attention_maps(ONE.regions, ONE.words, score=score, **ONE.lengths)
    assert len(maps) == 4
    for item, attention in enumerate(maps):
        assert attention.shape == (ONE.word_lengths[item], ONE.region_lengths[item])
        total = attention.sum(dim=0 if score.direction == "i2t" else 1)
        torch.testing.assert_close(total, torch.ones_like(total), **FLOAT64)


def test_maps_explain_the_scores():
    """The contexts that the maps make, compared with their words and pooled, are the scores."""
    score = PRESETS["released"]
    scores = local_scores(ONE.regions, ONE.words, score=score, **ONE.lengths)
    pairs = torch.tensor([[0, 3], [2, 1], [3, 3]])
    for (image, text), attention in zip(
        pairs.tolist(), attention_maps(ONE.regions, ONE.words, pairs=pairs, **ONE.lengths), strict=True
    ):
        context = attention @ ONE.regions[image, : ONE.region_lengths[image]]
        cosine = F.cosine_similarity(context, ONE.words[text, : ONE.word_lengths[text]], dim=1)
        torch.testing.assert_close((5 * cosine).logsumexp(0), scores[image, text], **FLOAT64)


def test_maps_of_feature_maps_are_pictures():
    features = SINGLE.regions.reshape(4, 3, 4, 8).permute(0, 3, 1, 2)
    pictures = attention_maps(features, SINGLE.words, word_lengths=SINGLE.word_lengths)
    rows = attention_maps(SINGLE.regions, SINGLE.words, word_lengths=SINGLE.word_lengths)
    for picture, row in zip(pictures, rows, strict=True):
        assert picture.shape == (row.shape[0], 3, 4)
        assert torch.equal(picture.flatten(1), row)


MAPS_REFUSED = {
    "word": ("all", ValueError, "pairs is 'all'; expected 'matched' or a"),
    "counts": ("matched", ValueError, "pairs is 'matched' with 4 images and 3 texts"),
    "list": ([(0, 0)], TypeError, "pairs is list; expected 'matched' or a"),
    "floats": (torch.zeros(1, 2), TypeError, "pairs is torch.float32; expected 'matched' or a"),
    "shape": (torch.zeros(2, 3).long(), ValueError, r"pairs has the shape \(2, 3\); expected \(P, 2\)"),
    "beyond": (torch.tensor([[0, 0], [1, 3]]), ValueError, r"pairs\[1\] is \(1, 3\); expected .* text of 0 to 2"),
    "negative": (torch.tensor([[-1, 0]]), ValueError, r"pairs\[0\] is \(-1, 0\); expected an image of 0 to 3"),
}


@pytest.mark.parametrize(("pairs", "error", "message"), MAPS_REFUSED.values(), ids=MAPS_REFUSED.keys())
def test_maps_refuse(pairs, error, message):
    with pytest.raises(error, match=message):
        attention_maps(ONE.regions, ONE.words[:3], pairs=pairs)


@pytest.mark.parametrize(
    ("images", "texts", "error", "message"),
    [
        (torch.ones(3, 4), torch.ones(2, 5), ValueError, r"images are \(3, 4\) on cpu and texts \(2, 5\) on cpu; exp"),
        (torch.ones(4), torch.ones(2, 4), ValueError, r"images has the shape \(4,\); expected \(N, D\)"),
        (torch.ones(3, 4), torch.ones(2, 4).long(), TypeError, "texts is torch.int64; expected float16"),
        (3, torch.ones(2, 4), TypeError, "images is a int; expected a tensor"),
    ],
)
def test_cosines_refuse(images, texts, error, message):
    with pytest.raises(error, match=message):
        cosines(images, texts)


def test_cosines_of_nothing():
    assert cosines(torch.ones(0, 4), torch.ones(2, 4)).shape == (0, 2)
