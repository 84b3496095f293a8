"""The drop-in against the released algorithm, written here in plain float64: losses, gradients, maps and layouts."""

import pytest
import torch
import torch.nn.functional as F
from tolerances import FLOAT64

from gloria_ops.dropin.gloria import attention_fn, global_loss, local_loss

LENGTHS = [5, 1, 7]


@pytest.fixture
def features():
    images = torch.randn(3, 6, 2, 4, dtype=torch.float64, requires_grad=True)
    words = torch.randn(3, 6, 7, dtype=torch.float64, requires_grad=True)
    return images, words


def plain_attention(words, regions, temp1):
    """One text (D, W) and one image (D, M): softmax over words, then regions; contexts (D, W), attention (W, M)."""
    over_words = F.softmax(regions.T @ words, dim=1)
    attention = F.softmax(temp1 * over_words.T, dim=1)
    return regions @ attention.T, attention


def plain_local_loss(images, words, lengths, temp1, temp2, temp3, agg):
    scores, maps = torch.zeros(3, 3, dtype=torch.float64), []
    for i, image in enumerate(images.flatten(2)):
        for t, length in enumerate(lengths):
            text = words[t, :, :length]
            context, attention = plain_attention(text, image, temp1)
            similarities = torch.exp(temp2 * F.cosine_similarity(context, text, dim=0))
            pooled = similarities.sum() if agg == "sum" else similarities.mean()
            scores = scores.index_put((torch.tensor(i), torch.tensor(t)), temp3 * torch.log(pooled))
            if i == t:
                maps.append(attention.reshape(1, length, 2, 4))
    labels = torch.arange(3)
    return F.cross_entropy(scores, labels), F.cross_entropy(scores.T, labels), maps


@pytest.mark.parametrize("agg", ["sum", "mean"])
@pytest.mark.parametrize("temps", [(4.0, 5.0, 10.0), (2.0, 3.0, 1.5)])
def test_local_loss(features, temps, agg):
    ours, plain = local_loss(*features, LENGTHS, *temps, agg), plain_local_loss(*features, LENGTHS, *temps, agg)
    for mine, theirs in zip(ours[:2], plain[:2], strict=True):
        torch.testing.assert_close(mine, theirs, **FLOAT64)
        for gradient, expected in zip(
            torch.autograd.grad(mine, features, retain_graph=True),
            torch.autograd.grad(theirs, features, retain_graph=True),
            strict=True,
        ):
            torch.testing.assert_close(gradient, expected, **FLOAT64)
    assert len(ours[2]) == 3
    for mine, theirs in zip(ours[2], plain[2], strict=True):
        torch.testing.assert_close(mine, theirs, **FLOAT64)


def test_local_loss_defaults_are_the_released_ones(features):
    assert local_loss(*features, LENGTHS)[:2] == local_loss(*features, LENGTHS, 4.0, 5.0, 10.0, "sum")[:2]


def test_local_loss_runs_on_the_kernels(features):
    single = [each.detach().float().requires_grad_() for each in features]
    exact = local_loss(*features, torch.tensor(LENGTHS))
    for mine, theirs in zip(local_loss(*single, LENGTHS)[:2], exact[:2], strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-5, atol=1e-6)
    sum(local_loss(*single, LENGTHS)[:2]).backward()
    assert all(each.grad.shape == each.shape for each in single)


def test_maps_are_made_when_looked_at(features, monkeypatch):
    made = []
    whole = local_loss.__globals__["attention_maps"]
    monkeypatch.setitem(local_loss.__globals__, "attention_maps", lambda *a, **k: made.append(a) or whole(*a, **k))
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
    images, texts = (torch.randn(4, 6, dtype=torch.float64, requires_grad=True) for _ in range(2))
    scores = 7.0 * F.cosine_similarity(images[:, None], texts[None], dim=2)
    expected = F.cross_entropy(scores, torch.arange(4)), F.cross_entropy(scores.T, torch.arange(4))
    for mine, theirs in zip(global_loss(images, texts, temp3=7.0), expected, strict=True):
        torch.testing.assert_close(mine, theirs, **FLOAT64)
        for gradient, other in zip(
            torch.autograd.grad(mine, (images, texts), retain_graph=True),
            torch.autograd.grad(theirs, (images, texts), retain_graph=True),
            strict=True,
        ):
            torch.testing.assert_close(gradient, other, **FLOAT64)


def test_attention_fn(features):
    images, words = features
    contexts, attention = attention_fn(words, images, 4.0)
    assert contexts.shape == words.shape
    assert attention.shape == (3, 7, 2, 4)
    for item in range(3):
        context, expected = plain_attention(words[item], images[item].flatten(1), 4.0)
        torch.testing.assert_close(contexts[item], context, **FLOAT64)
        torch.testing.assert_close(attention[item].flatten(1), expected, **FLOAT64)
    ours = torch.autograd.grad(contexts.square().sum(), features)
    plain = sum(plain_attention(w, v, 4.0)[0].square().sum() for w, v in zip(words, images.flatten(2), strict=True))
    for gradient, expected in zip(ours, torch.autograd.grad(plain, features), strict=True):
        torch.testing.assert_close(gradient, expected, **FLOAT64)
