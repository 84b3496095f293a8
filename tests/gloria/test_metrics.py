"""Figures of classifiers and segmenters: against plain counting, with one-sided classes and empty answers."""

import math

import numpy as np
import pytest
import torch

from gloria.metrics import auroc_table, best_f1_thresholds, dice_table, threshold_table

NAN = math.nan


def test_auroc_is_the_share_of_pairs_in_order():
    random = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 30, (60, 2), generator=random).double()
    truth = torch.randint(0, 2, (60, 2), generator=random).double()
    truth[::7, 0] = NAN
    table = auroc_table(scores, truth, ["a", "b"])
    for column, name in enumerate("ab"):
        positive, negative = (scores[truth[:, column] == value, column] for value in (1, 0))
        difference = positive[:, None] - negative
        expected = (difference.sign() / 2 + 0.5).mean().item()
        assert table["classes"][name] == pytest.approx(expected, abs=1e-7)  # torchmetrics counts in float32
    assert table["macro"] == pytest.approx(sum(table["classes"].values()) / 2)
    assert table["macro_of"] == ["a", "b"]


def test_large_logits_are_not_made_equal():
    scores = torch.tensor([[100.0], [101.0], [102.0], [103.0]])
    truth = torch.tensor([[0.0], [0.0], [1.0], [1.0]])
    assert auroc_table(scores, truth, ["a"])["macro"] == 1
    assert best_f1_thresholds(scores, truth, ["a"]) == {"a": 102.0}


def test_a_one_sided_class_has_no_auroc_and_is_named_out_of_the_mean():
    scores = torch.tensor([[0.1, 0.9, 0.1], [0.2, 0.1, 0.3], [0.7, 0.5, 0.2]])
    truth = torch.tensor([[0, 1, 0], [0, 1, NAN], [1, 1, 0]])
    table = auroc_table(scores, truth, ["a", "b", "c"])
    assert table == {"classes": {"a": 1.0, "b": None, "c": None}, "macro": 1.0, "macro_of": ["a"]}
    assert auroc_table(scores[:, 1:], truth[:, 1:], ["b", "c"])["macro"] is None


def test_thresholds_give_the_best_f1_of_all():
    random = torch.Generator().manual_seed(1)
    scores = torch.randn(50, 2, generator=random)
    truth = (scores + torch.randn(50, 2, generator=random) > 0.5).float()
    thresholds = best_f1_thresholds(scores, truth, ["a", "b"])
    found = threshold_table(scores, truth, thresholds)
    for column, name in enumerate("ab"):
        every = []
        for level in scores[:, column]:
            answers = scores[:, column] >= level
            right = (answers & (truth[:, column] == 1)).sum()
            every.append((2 * right / (answers.sum() + truth[:, column].sum())).item())
        assert found[name]["F1"] == pytest.approx(max(every), abs=1e-6)
    assert found["macro"]["F1"] == pytest.approx((found["a"]["F1"] + found["b"]["F1"]) / 2)
    nothing = best_f1_thresholds(scores, torch.zeros(50, 2), ["a", "b"])
    assert nothing == {"a": math.inf, "b": math.inf}
    assert threshold_table(scores, truth, nothing)["macro"]["sensitivity"] == 0


@pytest.mark.parametrize(
    ("scores", "truth", "message"),
    [
        (torch.zeros(2, 2), torch.zeros(2, 1), r"scores are \(2, 2\) and truth \(2, 1\) for 1 classes"),
        (torch.tensor([[NAN]]), torch.zeros(1, 1), "scores are NaN or infinite"),
        (torch.zeros(1, 1), -torch.ones(1, 1), "labels that are none of 1, 0 and NaN; settle uncertain ones"),
    ],
)
def test_what_has_no_figure_is_named(scores, truth, message):
    with pytest.raises(ValueError, match=message):
        auroc_table(scores, truth, ["a"])
    with pytest.raises(ValueError, match="truth has labels that are NaN"):
        threshold_table(torch.zeros(1, 1), torch.tensor([[NAN]]), {"a": 0.5})


def test_dice_of_positives_empties_and_the_mixture():
    none, left, both = (np.array([values], dtype=bool) for values in ([0, 0], [1, 0], [1, 1]))
    table = dice_table([(left, both), (none, left), (none, none), (left, none), (none, none)])
    assert table == {
        "dice_of_positives": pytest.approx((2 / 3 + 0) / 2),
        "empties_right": pytest.approx(2 / 3),
        "released_mixture": pytest.approx((2 / 3 + 2) / 5),
        "images": 5,
        "positives": 2,
        "nothing_anywhere": {
            "dice_of_positives": 0.0, "empties_right": 1.0, "released_mixture": pytest.approx(3 / 5)
        },
    }  # fmt: skip
    assert dice_table([(left, both)])["empties_right"] is None
    with pytest.raises(ValueError, match=r"mask of image 0 is \(1, 2\) and the true one \(2, 1\); expected masks of"):
        dice_table([(left, left.T)])
    with pytest.raises(ValueError, match="masks is empty"):
        dice_table([])
