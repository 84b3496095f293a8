"""Word pieces to words and sentences: against a loop in float64, and what padding must not do."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gloria.words import mean_pieces, sum_last_layers, sum_pieces


def loop_over_pieces(pieces, word_ids):
    """The definition: each piece is added to its word, one after another."""
    words = torch.zeros_like(pieces)
    for text in range(pieces.shape[0]):
        for piece, word in enumerate(word_ids[text].tolist()):
            if word >= 0:
                words[text, word] = words[text, word] + pieces[text, piece]
    return words


@st.composite
def word_id_batches(draw):
    length = draw(st.integers(1, 12))
    rows = []
    for _ in range(draw(st.integers(1, 4))):
        row, word = [], 0
        while len(row) < length and draw(st.booleans()):
            row += [word] * draw(st.integers(1, 3))
            word += 1
        rows.append((row + [-1] * length)[:length])
    return torch.tensor(rows)


@given(word_id_batches(), st.integers(1, 5))
@settings(max_examples=50, deadline=None)
def test_pieces_are_summed_into_their_words(word_ids, width):
    pieces = torch.randn(*word_ids.shape, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    words, lengths = sum_pieces(pieces, word_ids)
    torch.testing.assert_close(words, loop_over_pieces(pieces, word_ids))
    assert lengths.tolist() == [max(row) + 1 for row in word_ids.tolist()]
    assert lengths.dtype == torch.int64


def test_gradients_of_the_sum_are_right():
    pieces = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    word_ids = torch.tensor([[0, 1, 1, 2, -1], [0, 0, -1, -1, -1]])
    assert torch.autograd.gradcheck(lambda p: sum_pieces(p, word_ids)[0], pieces)


def test_nan_outside_the_words_changes_neither_words_nor_gradients():
    word_ids = torch.tensor([[0, 1, 1, -1, -1]])
    clean = torch.randn(1, 5, 3)
    dirty = clean.clone()
    dirty[:, 3:] = float("nan")
    results = []
    for pieces in (clean, dirty):
        pieces.requires_grad_()
        words, _ = sum_pieces(pieces, word_ids)
        sentence = mean_pieces(pieces, word_ids >= 0)
        (words.square().sum() + sentence.square().sum()).backward()
        results.append((words, sentence, pieces.grad))
    for expected, actual in zip(*results, strict=True):
        assert torch.equal(expected, actual)


def test_sentence_is_the_mean_over_the_pieces_of_the_text():
    pieces = torch.arange(8, dtype=torch.float64).view(1, 4, 2)
    assert mean_pieces(pieces, torch.tensor([[1, 1, 1, 0]])).tolist() == [[2.0, 3.0]]


def test_last_layers_are_summed():
    layers = [torch.full((1, 2, 3), float(value)) for value in (1, 10, 100, 1000)]
    assert torch.equal(sum_last_layers(layers, 2), torch.full((1, 2, 3), 1100.0))


def test_no_data_leaves_the_device():
    """On the meta device there are no values, so anything that waits for one fails."""
    pieces, word_ids = torch.empty(2, 5, 3, device="meta"), torch.empty(2, 5, dtype=torch.int64, device="meta")
    words, lengths = sum_pieces(pieces, word_ids)
    assert words.shape == (2, 5, 3)
    assert lengths.shape == (2,)


@pytest.mark.parametrize(
    ("word_ids", "error", "message"),
    [
        (torch.zeros(2, 4, dtype=torch.int64), ValueError, r"word_ids has the shape \(2, 4\) and pieces \(2, 5, 3\)"),
        (torch.zeros(2, 5), TypeError, r"word_ids has the dtype torch.float32; expected integers"),
    ],
)
def test_bad_word_ids_are_named(word_ids, error, message):
    with pytest.raises(error, match=message):
        sum_pieces(torch.zeros(2, 5, 3), word_ids)
