"""The drop-in against the released algorithm, written plainly: losses, gradients, maps, layouts and conventions."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from dropin_checks import (
    assert_replaces,
    cosine,
    plain_attention,
    plain_cosines,
    plain_cross_entropies,
    plain_local_scores,
)
from tolerances import FLOAT32, FLOAT64

from gloria_ops.dropin.gloria import (
    attention_fn,
    compute_local_similarity,
    cosine_similarity,
    get_local_similarities,
    global_loss,
    local_loss,
)

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


def test_maps_are_a_list(features):
    """Which is concatenated, and gathered by DataParallel."""
    maps = local_loss(*features, LENGTHS)[2]
    assert type(maps) is list
    assert [each.shape[1] for each in maps + maps[:1]] == [*LENGTHS, 5]


@pytest.mark.parametrize("temps", [(4.0, 5.0, 10.0), (0.0, 5.0, 10.0), (4.0, 0.0, 10.0), (4.0, 5.0, 0.0)])
@pytest.mark.parametrize("as_tensors", [False, True])
def test_temperatures_of_every_kind(features, temps, as_tensors):
    """Numbers and tensors of one element, 0 included, which LocalScore does not take."""

    def plain(images, words):
        scores = plain_local_scores(images, words, LENGTHS, *temps[:2])
        return [losses.mean() for losses in plain_cross_entropies(temps[2] * scores)]

    given = [torch.tensor([each]) for each in temps] if as_tensors else temps
    ours, theirs = local_loss(*features, LENGTHS, *given)[:2], plain(*features)
    torch.testing.assert_close(list(ours), theirs, **FLOAT64)
    weighted = [torch.autograd.grad(a + 2 * b, features) for a, b in (ours, theirs)]
    torch.testing.assert_close(*weighted, **FLOAT64)
    single = local_loss(*(each.float() for each in features), LENGTHS, *given)
    torch.testing.assert_close(list(single[:2]), [each.float() for each in theirs], **FLOAT32)


def test_the_scale_of_the_losses_is_learned(features):
    """As a parameter of float32, though the features are float64."""
    scale = torch.nn.Parameter(torch.tensor([7.0]))
    vectors = [each.flatten(2).mean(2) for each in features]
    for loss, number in (
        (lambda temp3: local_loss(*features, LENGTHS, temp3=temp3)[:2], 7.0),
        (lambda temp3: global_loss(*vectors, temp3=temp3), 7.0),
    ):
        assert loss(scale) == loss(number)
        step = 1e-6
        slope = (sum(loss(number + step)) - sum(loss(number - step))) / (2 * step)
        (grad,) = torch.autograd.grad(sum(loss(scale)), scale)
        torch.testing.assert_close(grad.double(), slope.detach().reshape(1), rtol=1e-6, atol=1e-9)


def test_all_temperatures_are_learned(features):
    def plain(images, words, temp1, temp2, temp3):
        scores = plain_local_scores(images, words, LENGTHS, temp1, temp2)
        return [losses.mean() for losses in plain_cross_entropies(temp3 * scores)]

    temps = [torch.tensor(each, dtype=torch.float64) for each in (3.0, 2.0, 7.0)]
    assert_replaces(lambda v, w, *temps: local_loss(v, w, LENGTHS, *temps)[:2], plain, *features, *temps)


def plain_zero_shot(images, words, lengths):
    texts = words[:, :, 1:]
    rows = []
    for image in images.flatten(2):
        row = []
        for text, length in zip(texts, lengths, strict=True):
            contexts, _ = plain_attention(text[:, :length], image, 4.0)
            row.append(max(5 * cosine(c, t) for c, t in zip(contexts.T, text[:, :length].T, strict=True)))
        rows.append(torch.stack(row))
    return torch.stack(rows)


def test_zero_shot_similarities(features):
    images, words = features
    ours = get_local_similarities(images[:2], words, torch.tensor([4, 1, 6]))
    assert not ours.requires_grad
    torch.testing.assert_close(ours, plain_zero_shot(images[:2], words, [4, 1, 6]).detach(), **FLOAT64)
    with pytest.raises(ValueError, match=r"cap_lens\[2\] is 7; expected 1 to 6"):
        get_local_similarities(images, words, [4, 1, 7])
    with pytest.raises(ValueError, match=r"img_emb_l are 6 wide and text_emb_l 5 \(D\)"):
        get_local_similarities(images, words[:, :5], [4, 1, 6])


@pytest.mark.parametrize("agg", ["sum", "mean"])
def test_retrieval_similarities(features, agg):
    images, words = features
    ours = compute_local_similarity(images[:1], words, [4, 1, 6], 3.0, 2.0, 7.0, agg)
    expected = 7 * plain_local_scores(images[:1], words[:, :, 1:], [4, 1, 6], 3.0, 2.0, agg)[0]
    assert isinstance(ours, np.ndarray)
    torch.testing.assert_close(torch.tensor(ours), expected.detach(), **FLOAT64)
    with pytest.raises(ValueError, match=r"img_features has the shape \(3, 6, 2, 4\); expected one image"):
        compute_local_similarity(images, words, [4, 1, 6])
    with pytest.raises(TypeError, match=r"temp3 is 'a'; expected a number"):
        compute_local_similarity(images[:1], words, [4, 1, 6], temp3="a")
    with pytest.raises(TypeError, match="img_features is a int; expected a tensor"):
        compute_local_similarity(3, words, [4, 1, 6])


def test_what_the_released_code_crashes_on_has_a_message(features):
    images, words = features
    with pytest.raises(ValueError, match=r"cap_lens\[1\] is 0"):
        local_loss(images, words, [5, 0, 7])
    with pytest.raises(ValueError, match=r"2 images \(N_v\) and 3 texts.*drop what has no partner$"):
        local_loss(images[:2], words, LENGTHS)
    with pytest.raises(ValueError, match=r"agg is 'max'; expected 'sum' .* or 'mean'"):
        local_loss(images, words, LENGTHS, agg="max")
    with pytest.raises(ValueError, match=r"temp1 has the shape \(2,\); expected a number, or one element"):
        local_loss(images, words, LENGTHS, temp1=torch.ones(2))
    for name in ("temp1", "temp2", "temp3"):
        with pytest.raises(ValueError, match=rf"{name} is -1\.0; expected a number from"):
            local_loss(images, words, LENGTHS, **{name: -1.0})
    with pytest.raises(ValueError, match=r"temp1 is 0\.0; expected a number from"):
        local_loss(images, words, LENGTHS, temp1=torch.tensor(0.0, requires_grad=True))
    with pytest.raises(ValueError, match=r"img_features has the shape \(3, 6, 8\); expected \(B, D, h, w\)"):
        local_loss(images.flatten(2), words, LENGTHS)
    with pytest.raises(TypeError, match="img_features is a int; expected a tensor"):
        local_loss(3, words, LENGTHS)
    with pytest.raises(TypeError, match="unexpected keyword argument 'regions'"):
        local_loss(regions=images)
    with pytest.raises(TypeError, match=r"img_features are torch.float64 and words_emb torch.float32"):
        local_loss(images, words.float(), LENGTHS)
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


def test_global_loss_names_its_own_arguments():
    with pytest.raises(ValueError, match=r"cnn_code are \(4, 6\) on cpu and rnn_code \(4, 5\) on cpu"):
        global_loss(torch.ones(4, 6), torch.ones(4, 5))
    with pytest.raises(ValueError, match=r"4 images \(N_v\) and 3 texts.*drop what has no partner$"):
        global_loss(torch.ones(4, 6), torch.ones(3, 6))
