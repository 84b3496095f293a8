"""Lengths, flops and inputs of the benchmark are those that its README claims."""

import json
from dataclasses import replace

import pytest
import torch

from bench.cases import CASES, SMALL_PROBLEM, Case, make_inputs
from bench.errors import KINDS
from bench.lengths import LONGEST, TABLE, count_words, draw_lengths, load_table


def test_words_are_counted_as_the_released_preprocessing_splits_them():
    assert count_words("No pneumothorax; 2-cm nodule.") == 1 + 5
    assert count_words("") == 1
    assert count_words("effusion " * 200) == LONGEST


def test_the_stored_table_holds_numbers_only():
    table = json.loads(TABLE.read_text())
    assert all(1 < int(words) <= LONGEST and reports > 0 for words, reports in table.items())
    assert len(load_table()) == sum(table.values())


@pytest.mark.parametrize("texts", [32, 48, 128])
def test_drawn_lengths_have_the_mean_of_the_table_and_depend_on_the_seed_alone(texts):
    lengths, table = draw_lengths(texts), load_table()
    assert lengths == draw_lengths(texts)
    assert lengths != draw_lengths(texts, seed=1)
    assert abs(sum(lengths) / texts - sum(table) / len(table)) < 1
    assert set(lengths) <= set(table)


def test_flops_are_counted_by_hand():
    case = Case("by hand", batch=2, side=3, width=5, preset="released")
    pairs = 2 * 9 * sum(case.lengths)
    assert case.flops("forward") == pairs * (2 * 5 + 2 * 9)
    assert case.flops("backward") == pairs * (6 * 5 + 4 * 9)
    assert case.flops("full") == case.flops("forward") + case.flops("backward")
    paper = replace(case, preset="paper")
    assert paper.flops("forward") == paper.product_flops() == pairs * 2 * 5
    assert paper.flops("backward") == pairs * 6 * 5


def test_the_cases_include_every_shape_and_preset_that_is_claimed():
    shapes = {(case.batch, case.regions, case.width, case.preset) for case in CASES}
    for preset in ("released", "paper"):
        assert shapes >= {(48, 361, 768, preset), (48, 196, 768, preset), (48, 196, 128, preset)}
    assert (32, 361, 768, "released") in shapes


def test_the_small_problem_has_texts_of_eight_words():
    assert SMALL_PROBLEM.lengths == [8, 8, 8, 8]
    assert (SMALL_PROBLEM.regions, SMALL_PROBLEM.width) == (49, 128)


def test_a_label_names_the_problem():
    case = Case("by hand", batch=2, side=3, width=5, preset="released", words_each=7)
    shape = {"batch": 2, "regions": 9, "words": 14, "width": 5}
    assert case.label == {"case": "by hand", "preset": "released", **shape}


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_are_of_their_kind_and_zero_after_each_text(kind):
    case = Case("inputs", batch=4, side=5, width=64, preset="paper")
    inputs = make_inputs(case, kind)
    assert inputs.regions.shape == (4, 25, 64)
    assert inputs.words.shape == (4, max(case.lengths), 64)
    for text, length in zip(inputs.words, inputs.lengths, strict=True):
        assert (text[:length].norm(dim=1) > 0).all()
        assert not text[length:].any()
    if kind == "unit_norm":
        torch.testing.assert_close(inputs.regions.norm(dim=-1), torch.ones(4, 25))
    if kind == "random":
        affinity = inputs.regions.flatten(0, 1) @ inputs.words[0, : inputs.lengths[0]].T
        assert 0.8 < affinity.std() < 1.2
    if kind == "correlated":
        directions = torch.nn.functional.normalize(inputs.regions.flatten(0, 1), dim=-1)
        assert (directions @ directions.T).mean() > 0.5
    if kind == "centered":
        assert inputs.regions.mean(dim=1).abs().max() < 1e-6
    if kind == "steep":
        affinity = inputs.regions.flatten(0, 1) @ inputs.words[0, : inputs.lengths[0]].T
        assert affinity.std() > 8e3
    if kind == "nearly_equal":
        directions = torch.nn.functional.normalize(inputs.regions.flatten(0, 1), dim=-1)
        assert (directions @ directions.T).min() > 0.9995
    if kind == "nearly_opposite":
        cosine = torch.nn.functional.cosine_similarity(inputs.regions[:, :24:2], inputs.regions[:, 1:24:2], dim=-1)
        torch.testing.assert_close(cosine, -torch.ones(4, 12))
