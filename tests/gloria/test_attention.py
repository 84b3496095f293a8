"""The grid of attention pictures: what is in a panel, which words get one, and one scale for all."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from gloria.attention import (
    attention_figure,
    content_words,
    save_figure,
    word_attention,
)
from gloria.attention.figure import MOST_WORDS, PER_ROW, scale_top
from gloria.data import draw_phantom
from gloria.small import small_model


@pytest.fixture(scope="module")
def small():
    return small_model(["No acute, left nodule."] * 2)


def test_attention_of_a_word_sums_to_one(small):
    model, processor = small
    phantom = draw_phantom("left nodule", 0)
    words, maps = word_attention(model, processor, phantom.image, "No acute, left nodule")
    assert words == ["no", "acute", ",", "left", "nodule"]
    assert maps.shape == (5, 10, 10)
    np.testing.assert_allclose(maps.sum((1, 2)), 1, rtol=1e-5)


def test_a_panel_for_the_image_the_report_and_every_word(small, tmp_path):
    model, processor = small
    phantom = draw_phantom("left consolidation", 0)
    report = "No acute, left nodule."
    figure = attention_figure(model, processor, phantom.image, report, phantom.mask, title="A phantom")
    panels = [axis for axis in figure.axes if axis.get_title()]
    assert [axis.get_title() for axis in panels] == [
        "image, finding outlined", "whole report", "no", "acute", "left", "nodule"
    ]  # fmt: skip
    assert figure.get_suptitle() == f"A phantom\n{report}"
    words, maps = word_attention(model, processor, phantom.image, report)
    told = content_words(words)
    drawn = [axis.images[1].get_array() for axis in panels[1:]]
    np.testing.assert_allclose(drawn[0], 100 * maps[told].mean(0), rtol=1e-5)
    np.testing.assert_allclose(np.stack(drawn[1:]), 100 * maps[told], rtol=1e-5)
    assert {axis.images[1].get_clim() for axis in panels[1:]} == {(1.0, scale_top(100 * maps[told]))}
    assert save_figure(figure, tmp_path / "short.png").exists()


def test_a_long_report_is_cut_and_says_so(small):
    model, processor = small
    figure = attention_figure(model, processor, draw_phantom("left nodule", 0).image, "left " * 40)
    assert len([axis for axis in figure.axes if axis.get_title() == "left"]) == MOST_WORDS == 5 * PER_ROW - 2
    assert f"(the first {MOST_WORDS} of 40 words)" in figure.get_suptitle()
    plt.close(figure)


def test_an_empty_report_shows_the_one_word_there_is(small):
    model, processor = small
    figure = attention_figure(model, processor, draw_phantom("left nodule", 0).image, "")
    assert [axis.get_title() for axis in figure.axes if axis.get_title()] == ["image", "whole report", "[CLS]"]
    plt.close(figure)


def test_a_report_is_no_formula(small, tmp_path):
    model, processor = small
    report = r"Costs $\nonsense$ and $_$."
    figure = attention_figure(model, processor, draw_phantom("left nodule", 0).image, report, title="$^$")
    assert figure.get_suptitle() == f"$^$\n{report}"
    save_figure(figure, tmp_path / "report.png")


def test_punctuation_does_not_tell():
    assert content_words(["no", ",", "3", "mm", "."]) == [0, 2, 3]
    assert content_words([".", ","]) == [0]


def test_one_region_that_takes_all_does_not_set_the_scale():
    relative = np.ones((5, 10, 10))
    assert scale_top(relative) == 2
    relative[:, :2] = 3
    relative[0, 0, 0] = 100
    assert scale_top(relative) == 3
