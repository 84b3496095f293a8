"""Retrieval: the scores are the model's own, whatever the batches, and Precision@K counts what it says."""

import pytest
import torch

from gloria.data import Row
from gloria.retrieval import (
    Similarities,
    chance,
    format_precision,
    hit_rate_of_ranked,
    labels_of,
    precision_at,
    precision_of_ranked,
    precision_table,
    similarities,
)
from gloria_ops import cosines, local_scores


def test_scores_are_those_of_one_forward_pass(model, processor, pictures, reports, batch):
    found = similarities(model, processor, pictures, reports, batch_size=3)
    with torch.no_grad():
        output = model(**batch)
    expected = local_scores(
        output.region_embeds, output.word_embeds, word_lengths=output.word_lengths, score=model.config.score
    )
    torch.testing.assert_close(found.of_local, expected)
    torch.testing.assert_close(found.of_global, cosines(output.image_embeds, output.text_embeds))
    torch.testing.assert_close(found.by("both"), (found.of_local + found.of_global) / 2)


def test_rectangular_and_without_a_trace(model, processor, pictures, reports):
    model.train()
    found = similarities(model, processor, pictures[:1], reports, batch_size=2)
    assert found.of_local.shape == found.of_global.shape == (1, len(reports))
    assert model.training
    assert not found.of_local.requires_grad


def test_the_model_keeps_its_mode_when_an_image_fails(model, processor, reports):
    model.train()
    with pytest.raises(ValueError, match=r"gone\.png cannot be read"):
        similarities(model, processor, ["gone.png"], reports)
    assert model.training


@pytest.mark.parametrize(("images", "reports", "size"), [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_nothing_to_score(model, processor, images, reports, size):
    with pytest.raises(ValueError, match=f"there are {images} images, {reports} reports and a batch_size of {size}"):
        similarities(model, processor, ["a"] * images, ["b"] * reports, batch_size=size)


def test_unknown_way_of_ranking():
    with pytest.raises(ValueError, match="by is 'best'; expected one of 'global', 'local', 'both'"):
        Similarities(torch.zeros(1, 1), torch.zeros(1, 1)).by("best")


def test_precision_counts_equal_labels_among_the_best():
    scores = torch.tensor([[4.0, 3.0, 2.0, 1.0], [1.0, 2.0, 3.0, 4.0]])
    queries, candidates = ["a", "b"], ["a", "b", "a", "c"]
    # Query a ranks a b a c, query b ranks c a b a.
    expected = {1: (1 + 0) / 2, 2: (1 / 2 + 0) / 2, 3: (2 / 3 + 1 / 3) / 2, 4: (2 / 4 + 1 / 4) / 2}
    for k, value in expected.items():
        assert precision_at(scores, queries, candidates, k) == pytest.approx(value)
    assert chance(queries, candidates) == pytest.approx(3 / 8)


def test_random_rankings_reach_chance():
    generator = torch.Generator().manual_seed(0)
    labels = [str(index % 5) for index in range(50)]
    values = [precision_at(torch.rand(50, 50, generator=generator), labels, labels, 10) for _ in range(20)]
    assert sum(values) / len(values) == pytest.approx(chance(labels, labels), abs=0.02)


@pytest.mark.parametrize("k", [0, 3])
def test_k_out_of_range(k):
    with pytest.raises(ValueError, match=f"k is {k}; expected 1 to the number of candidates, 2"):
        precision_at(torch.zeros(1, 2), ["a"], ["a", "b"], k)


def test_labels_that_do_not_fit_the_scores():
    with pytest.raises(ValueError, match=r"scores are \(1, 2\) for 2 queries and 2 candidates"):
        precision_at(torch.zeros(1, 2), ["a", "b"], ["a", "b"], 1)


def test_reports_stand_in_for_missing_labels():
    rows = [Row(2, None, "one", label="x"), Row(3, None, "two", label="x")]
    assert labels_of(rows) == ["x", "x"]
    assert labels_of([*rows, Row(4, None, "three")]) == ["one", "two", "three"]


def test_table_tells_directions_apart_and_leaves_out_large_k():
    rows = [Row(line, None, "words", label=label) for line, label in enumerate("aab", 2)]
    local = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])  # by image: always text 0 first
    table = precision_table(Similarities(torch.eye(3), local), rows, ks=(1, 2, 5))
    assert table["image to text"]["local P@1"] == pytest.approx(2 / 3)
    assert table["text to image"]["global P@1"] == 1
    assert table["text to image"]["chance"] == pytest.approx(5 / 9)
    assert not any("P@5" in name for line in table.values() for name in line)
    text = format_precision(table)
    assert len(text.splitlines()) == 7
    assert "66.7" in text


def test_precision_knows_no_sign():
    scores = torch.tensor([[-1.0, -2.0, -3.0], [0.0, -1.0, -2.0]])
    assert precision_at(scores, ["a", "b"], ["a", "b", "c"], 2) == pytest.approx(1 / 2)


def test_a_hit_is_one_relevant_item_or_more():
    relevant = torch.tensor([[False, True, True], [False, False, True], [False, False, False]])
    assert [hit_rate_of_ranked(relevant, k) for k in (1, 2, 3)] == pytest.approx([0, 1 / 3, 2 / 3])
    assert [precision_of_ranked(relevant, k) for k in (1, 2, 3)] == pytest.approx([0, 1 / 6, 3 / 9])
