"""The drop-in against the released algorithm, written plainly: losses, gradients, maps, layouts and conventions."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from dropin_checks import (
    assert_replaces,
    plain_attention,
    plain_cosines,
    plain_cross_entropies,
    plain_local_scores,
)
from tolerances import FLOAT64

from gloria_ops.dropin.gloria import attention_fn, cosine_similarity, global_loss, local_loss
from gloria_ops.functional import attention_maps

LENGTHS = [5, 1, 7]


@pytest.fixture
def features():
    images = torch.randn(3, 6, 2, 4, dtype=torch.float64, requires_grad=True)
    words = torch.randn(3, 6, 7, dtype=torch.float64, requires_grad=True)
    return images, words


@pytest.mark.parametrize("agg", ["sum", "mean"])
@pytest.mark.parametrize("temps", [(4.0, 5.0, 10.0), (2.0, 3.0, 1.5)])
def test_local_loss(features, temps, agg):
    def plain(images, words):
        scores = plain_local_scores(images, words, LENGTHS, *temps[:2], agg)
        return [losses.mean() for losses in plain_cross_entropies(temps[2] * scores)]

    assert_replaces(lambda images, words: local_loss(images, words, LENGTHS, *temps, agg)[:2], plain, *features)


def test_local_loss_defaults_are_the_released_ones(features):
    assert local_loss(*features, LENGTHS)[:2] == local_loss(*features, LENGTHS, 4.0, 5.0, 10.0, "sum")[:2]


@pytest.mark.parametrize(
    "lengths",
    [torch.tensor(LENGTHS), np.array(LENGTHS), tuple(LENGTHS), list(torch.tensor(LENGTHS))],
)
def test_every_form_of_lengths(features, lengths):
    ours, expected = local_loss(*features, lengths), local_loss(*features, LENGTHS)
    assert ours[:2] == expected[:2]
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(ours[2], expected[2], strict=True))


def test_maps(features):
    images, words = features
    maps = local_loss(*features, LENGTHS)[2]
    assert len(maps) == 3
    for item, length in enumerate(LENGTHS):
        _, expected = plain_attention(words[item, :, :length], images[item].flatten(1), 4.0)
        torch.testing.assert_close(maps[item], expected.reshape(1, length, 2, 4), **FLOAT64)
    assert all(gradient.any() for gradient in torch.autograd.grad(maps[0].square().sum(), features))


def test_maps_are_made_when_looked_at(features, monkeypatch):
    made = []
    monkeypatch.setattr(
        "gloria_ops.dropin.shared.attention_maps", lambda *a, **k: made.append(a) or attention_maps(*a, **k)
    )
    maps = local_loss(*features, LENGTHS)[2]
    assert not made
    assert maps[-1].shape == (1, 7, 2, 4)
    assert len(made) == 1
    assert [each.shape[1] for each in maps[:2]] == [5, 1]
    assert [each.shape[1] for each in maps] == LENGTHS
    with pytest.raises(IndexError):
        maps[3]


def test_what_the_released_code_crashes_on_has_a_message(features):
    images, words = features
    with pytest.raises(ValueError, match=r"word_lengths\[1\] is 0"):
        local_loss(images, words, [5, 0, 7])
    with pytest.raises(ValueError, match=r"2 images \(N_v\) and 3 texts"):
        local_loss(images[:2], words, LENGTHS)
    with pytest.raises(ValueError, match=r"agg is 'max'; expected 'sum' .* or 'mean'"):
        local_loss(images, words, LENGTHS, agg="max")
    with pytest.raises(ValueError, match=r"words_emb has the shape \(6, 7\); expected \(B, D, L\)"):
        local_loss(images, words[0], LENGTHS)


def test_a_batch_of_one(features):
    images, words = features
    losses = local_loss(images[:1], words[:1], [5])
    assert losses[0] == losses[1] == 0


def test_global_loss():
    def plain(images, texts):
        return [losses.mean() for losses in plain_cross_entropies(7.0 * plain_cosines(images, texts))]

    vectors = (torch.randn(4, 6, dtype=torch.float64) for _ in range(2))
    assert_replaces(lambda images, texts: global_loss(images, texts, temp3=7.0), plain, *vectors)


def test_attention_fn(features):
    images, words = features
    contexts, attention = attention_fn(words, images, 4.0)
    assert contexts.shape == words.shape
    assert attention.shape == (3, 7, 2, 4)

    def plain(words, images):
        each = [plain_attention(w, v, 3.0) for w, v in zip(words, images.flatten(2), strict=True)]
        return [torch.stack(made) for made in zip(*each, strict=True)]

    assert_replaces(lambda words, images: attention_fn(words, images, 3.0), plain, words, images)


def test_cosine_similarity():
    one, other = torch.randn(2, 3, 1, 4, dtype=torch.float64)
    cosines = cosine_similarity(one, other, dim=2)
    torch.testing.assert_close(cosines, F.cosine_similarity(one, other, dim=2).squeeze(1), **FLOAT64)
    assert cosine_similarity(torch.zeros(3, 4), torch.zeros(3, 4)).tolist() == [0, 0, 0]
    assert cosine_similarity(one[:1], other[:1], dim=2).shape == ()
