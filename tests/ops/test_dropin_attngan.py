"""The drop-in against the DAMSM algorithm, written plainly: both losses, classes, labels, layouts and conventions."""

import math

import numpy as np
import pytest
import torch
from dropin_checks import assert_replaces, plain_cosines, plain_cross_entropies, plain_local_scores

from gloria_ops.dropin import attngan, gloria
from gloria_ops.dropin.attngan import func_attention, sent_loss, words_loss

LENGTHS = torch.tensor([6, 5, 3, 1])
LABELS = torch.arange(4)
CLASSES = np.array([7, 2, 7, 7])
IMAGES = torch.randn(4, 6, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
WORDS = torch.randn(4, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
CODES = IMAGES.mean((2, 3)), WORDS.mean(2)


def plain_losses(scores, class_ids, gamma3):
    excluded = torch.zeros(scores.shape, dtype=torch.bool)
    for i, one in enumerate([] if class_ids is None else class_ids):
        for j, other in enumerate(class_ids):
            excluded[i, j] = bool(one == other) and i != j
    return [losses.mean() for losses in plain_cross_entropies((gamma3 * scores).masked_fill(excluded, -math.inf))]


@pytest.mark.parametrize("gammas", [{}, {"gamma1": 2.0, "gamma2": 3.0, "gamma3": 1.5}])
@pytest.mark.parametrize("class_ids", [None, CLASSES])
def test_words_loss(class_ids, gammas):
    gamma1, gamma2, gamma3 = gammas.values() if gammas else (4.0, 5.0, 10.0)  # code/cfg/DAMSM

    def plain(images, words):
        return plain_losses(plain_local_scores(images, words, LENGTHS.tolist(), gamma1, gamma2), class_ids, gamma3)

    assert_replaces(
        lambda images, words: words_loss(images, words, LABELS, LENGTHS, class_ids, 4, **gammas)[:2],
        plain,
        IMAGES,
        WORDS,
    )


@pytest.mark.parametrize("gamma3", [10.0, 3.0])
@pytest.mark.parametrize("class_ids", [None, CLASSES])
def test_sent_loss(class_ids, gamma3):
    assert_replaces(
        lambda images, texts: sent_loss(images, texts, LABELS, class_ids, 4, 1e-8, gamma3=gamma3),
        lambda images, texts: plain_losses(plain_cosines(images, texts), class_ids, gamma3),
        *CODES,
    )


def test_the_same_class_changes_the_loss():
    apart, together = (sent_loss(*CODES, LABELS, class_ids, 4) for class_ids in (None, CLASSES))
    assert all(without < within for without, within in zip(together, apart, strict=True))
    assert sent_loss(*CODES, LABELS, np.arange(4), 4) == apart
    alone = sent_loss(*CODES, LABELS, np.zeros(4), 4)
    assert alone == (0, 0)


@pytest.mark.parametrize("class_ids", [torch.tensor(CLASSES), CLASSES.tolist(), np.array(["a", "b", "a", "a"])])
def test_classes_in_other_forms(class_ids):
    assert sent_loss(*CODES, LABELS, class_ids, 4) == sent_loss(*CODES, LABELS, CLASSES, 4)


def test_without_labels_no_scores_are_computed(monkeypatch):
    expected = words_loss(IMAGES, WORDS, LABELS, LENGTHS, None, 4)[2]
    monkeypatch.delattr(attngan, "local_scores")
    loss0, loss1, maps = words_loss(IMAGES, WORDS, None, LENGTHS, CLASSES, 4)
    assert loss0 is loss1 is None
    assert [each.shape for each in maps] == [(1, length, 3, 3) for length in LENGTHS]
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(maps, expected, strict=True))
    assert sent_loss(*CODES, None, CLASSES, 4) == (None, None)


def test_gammas_may_be_tensors_and_0():
    tensors = words_loss(
        IMAGES, WORDS, LABELS, LENGTHS, CLASSES, 4, gamma1=torch.tensor(2.0), gamma2=torch.ones(1), gamma3=0.0
    )
    numbers = words_loss(IMAGES, WORDS, LABELS, LENGTHS, CLASSES, 4, gamma1=2.0, gamma2=1.0, gamma3=0)
    assert tensors[:2] == numbers[:2]
    others = (CLASSES[:, None] != CLASSES).sum(1) + 1
    expected = torch.tensor(np.log(others)).mean()  # all that take part are equally likely
    torch.testing.assert_close(numbers[:2], (expected, expected), rtol=1e-12, atol=0)
    learned = torch.nn.Parameter(torch.tensor(3.0))
    sum(sent_loss(*CODES, LABELS, CLASSES, 4, gamma3=learned)).backward()
    assert learned.grad.abs() > 0


def test_labels_need_not_be_in_order():
    order = torch.tensor([1, 0, 3, 2])
    shuffled = words_loss(IMAGES, WORDS[order], order, LENGTHS[order], None, 4)
    torch.testing.assert_close(shuffled[:2], words_loss(IMAGES, WORDS, LABELS, LENGTHS, None, 4)[:2])


def test_codes_may_have_a_step_before_them():
    images, texts = CODES
    assert sent_loss(images[None], texts[None], LABELS, CLASSES, 4) == sent_loss(*CODES, LABELS, CLASSES, 4)


def test_a_batch_of_one():
    assert words_loss(IMAGES[:1], WORDS[:1], LABELS[:1], LENGTHS[:1], CLASSES[:1], 1)[:2] == (0, 0)
    assert sent_loss(CODES[0][:1], CODES[1][:1], LABELS[:1], None, 1) == (0, 0)


def test_func_attention_is_that_of_gloria():
    ours, expected = func_attention(WORDS, IMAGES, 5.0), gloria.attention_fn(WORDS, IMAGES, 5.0)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(ours, expected, strict=True))


def test_what_does_not_fit_has_a_message():
    with pytest.raises(ValueError, match=r"batch_size is 3; expected 4, the images given: pass len\(images\)"):
        words_loss(IMAGES, WORDS, LABELS, LENGTHS, None, 3)
    with pytest.raises(ValueError, match="batch_size is 5; expected 4"):
        sent_loss(*CODES, LABELS, None, 5)
    with pytest.raises(ValueError, match=r"class_ids has the shape \(3,\); expected \(4,\), the class of each item"):
        words_loss(IMAGES, WORDS, LABELS, LENGTHS, CLASSES[:3], 4)
    with pytest.raises(ValueError, match=r"words_emb has the shape \(6, 6\); expected \(B, D, L\)"):
        words_loss(IMAGES, WORDS[0], LABELS, LENGTHS, None, 4)
    with pytest.raises(ValueError, match=r"cap_lens\[0\] is 9; expected 1 to 6"):
        words_loss(IMAGES, WORDS, LABELS, [9, 1, 1, 1], None, 4)
    with pytest.raises(ValueError, match=r"gamma2 is -1\.0; expected a number from"):
        words_loss(IMAGES, WORDS, LABELS, LENGTHS, None, 4, gamma2=-1.0)
    with pytest.raises(ValueError, match=r"cnn_code are \(4, 5\) on cpu and rnn_code \(4, \d\) on cpu"):
        sent_loss(CODES[0][:, :5], CODES[1], LABELS, None, 4)
    with pytest.raises(TypeError, match="cnn_code is a int; expected a tensor"):
        sent_loss(3, CODES[1], LABELS, None, 4)
    with pytest.raises(TypeError, match=r"labels is tensor\(\[0, 1, 2\]\); expected 4 integers in a tensor"):
        sent_loss(*CODES, LABELS[:3], None, 4)
