"""MaxSim against loops over words and regions, both ways, masked and not."""

import math

import pytest
import torch
import torch.nn.functional as F
from dropin_checks import assert_replaces

from gloria_ops.dropin.maxsim import maxsim_scores, own_maxsim_scores

TEXT_MASK = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 1]], dtype=torch.bool)
IMAGE_MASK = torch.tensor([[1, 0, 0, 1, 1], [1, 1, 1, 1, 1]], dtype=torch.bool)
MASKS = {
    "all real": (None, None),
    "text": (TEXT_MASK, None),
    "image": (None, IMAGE_MASK),
    "both": (TEXT_MASK, IMAGE_MASK),
}


@pytest.fixture
def batch():
    return [F.normalize(torch.randn(*shape, 6, dtype=torch.float64), dim=-1) for shape in ((3, 4), (2, 5))]


def plain(text, image, text_mask, image_mask, direction, reduction):
    text_mask = torch.ones(text.shape[:2], dtype=torch.bool) if text_mask is None else text_mask
    image_mask = torch.ones(image.shape[:2], dtype=torch.bool) if image_mask is None else image_mask
    lines = []
    for words, real in zip(text, text_mask, strict=True):
        line = []
        for regions, there in zip(image, image_mask, strict=True):
            asking, asked = words[real], regions[there]
            if direction == "image_to_text":
                asking, asked = asked, asking
            best = [max(one @ other for other in asked) for one in asking]
            line.append(sum(best) / len(best) if reduction == "mean" else sum(best))
        lines.append(torch.stack(line))
    return [torch.stack(lines)]


@pytest.mark.parametrize("masks", MASKS.values(), ids=MASKS.keys())
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("direction", ["text_to_image", "image_to_text"])
def test_scores(batch, direction, reduction, masks):
    assert_replaces(
        lambda text, image: [maxsim_scores(text, image, *masks, direction=direction, reduction=reduction)],
        lambda text, image: plain(text, image, *masks, direction, reduction),
        *batch,
    )


def test_defaults_are_those_of_filip(batch):
    text, image = batch
    expected = torch.einsum("xtd,yid->xyti", text, image).amax(-1).mean(-1)
    torch.testing.assert_close(maxsim_scores(text, image), expected)


@pytest.mark.parametrize("direction", ["text_to_image", "image_to_text"])
def test_masked_rows_are_never_read(batch, direction):
    text, image = batch
    dirty = text.masked_fill(~TEXT_MASK[:, :, None], math.nan), image.masked_fill(~IMAGE_MASK[:, :, None], math.nan)
    clean = maxsim_scores(text, image, TEXT_MASK, IMAGE_MASK, direction=direction)
    assert torch.equal(maxsim_scores(*dirty, TEXT_MASK, IMAGE_MASK.int(), direction=direction), clean)


@pytest.mark.parametrize("direction", ["text_to_image", "image_to_text"])
def test_items_without_a_real_row(batch, direction):
    """Score what `empty` says, and get no gradient, whatever they hold."""
    text, image = (each.clone() for each in batch)
    text_mask, image_mask = TEXT_MASK.clone(), IMAGE_MASK.clone()
    text_mask[1], image_mask[0] = False, False
    text[1], image[0] = math.nan, math.inf
    text.requires_grad_(), image.requires_grad_()
    scores = maxsim_scores(text, image, text_mask.float(), image_mask, direction=direction, empty=-7.0)
    assert scores[1].tolist() == [-7.0, -7.0]
    assert scores[:, 0].tolist() == [-7.0] * 3
    there = torch.tensor([0, 2])
    expected = maxsim_scores(batch[0][there], batch[1][1:], TEXT_MASK[there], IMAGE_MASK[1:], direction=direction)
    torch.testing.assert_close(scores[there, 1:], expected)
    scores.sum().backward()
    assert text.grad[1].eq(0).all()
    assert image.grad[0].eq(0).all()
    assert text.grad[there].abs().sum() > 0
    full = maxsim_scores(*batch, TEXT_MASK, IMAGE_MASK, direction=direction)
    assert torch.equal(maxsim_scores(*batch, TEXT_MASK, IMAGE_MASK, direction=direction, empty=-7.0), full)


@pytest.mark.parametrize("masked", [False, True])
def test_images_of_ones_own(batch, masked):
    text, _ = batch
    images = F.normalize(torch.randn(3, 2, 5, 6, dtype=torch.float64), dim=-1)
    masks = (TEXT_MASK, torch.rand(3, 2, 5) < 0.6) if masked else (None, None)
    if masked:
        masks[1][:, :, 2] = True

    def plain_own(text, images):
        rows = []
        for item, (words, own) in enumerate(zip(text, images, strict=True)):
            of_item = [None if mask is None else mask[item] for mask in masks]
            given = (words[None], own, None if of_item[0] is None else of_item[0][None], of_item[1])
            rows.append(plain(*given, "text_to_image", "sum")[0][0])
        return [torch.stack(rows)]

    assert_replaces(
        lambda text, images: [own_maxsim_scores(text, images, *masks, reduction="sum")], plain_own, text, images
    )
    with pytest.raises(ValueError, match=r"images has the shape \(3, 5, 6\); expected \(X, K, I, D\) with X"):
        own_maxsim_scores(text, images[:, 0])


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"direction": "t2i"}, ValueError, "direction is 't2i'; expected 'text_to_image' or 'image_to_text'"),
        ({"reduction": "max"}, ValueError, r"reduction is 'max'; expected 'mean' \(FILIP\) or 'sum' \(ColBERT\)"),
        (
            {"text_mask": TEXT_MASK & False},
            ValueError,
            r"text_mask.sum\(1\)\[0\] is 0; expected 1 to 4.*drop empty items, or give their score, empty=0.0",
        ),
        ({"image_mask": TEXT_MASK}, ValueError, r"image_mask has the shape \(3, 4\); expected \(N, L\) = \(2, 5\)"),
        ({"image_mask": IMAGE_MASK * 0.5}, ValueError, r"image_mask\[0, 0\] is 0.5; expected 0 or 1, 1 = real"),
        ({"image_mask": IMAGE_MASK.tolist()}, TypeError, "image_mask is list; expected a bool or integer tensor"),
        ({"image": torch.ones(2, 5, 4).double()}, ValueError, r"image are 4 wide and text 6 \(D\)"),
        ({"text": [[1.0]]}, TypeError, "text is a list; expected a tensor"),
        ({"text": torch.ones(3, 6)}, ValueError, r"text has the shape \(3, 6\); expected \(X, T, D\)"),
        ({"image": torch.ones(2, 6, 3, 3)}, ValueError, r"image has the shape \(2, 6, 3, 3\); expected \(Y, I, D\)"),
    ],
)
def test_what_does_not_fit_has_a_message(batch, changed, error, message):
    with pytest.raises(error, match=message):
        maxsim_scores(**{"text": batch[0], "image": batch[1]} | changed)
