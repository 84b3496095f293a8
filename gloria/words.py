"""Makes word and sentence embeddings of a text encoder's hidden layers, on the device, with static shapes."""

from collections.abc import Sequence

import torch
from torch import Tensor


def sum_last_layers(hidden_states: Sequence[Tensor], layers: int) -> Tensor:
    """Return the sum of the last `layers` hidden states, each (B, L, H): the embeddings of the pieces, (B, L, H)."""
    return torch.stack(tuple(hidden_states[-layers:])).sum(0)


def sum_pieces(pieces: Tensor, word_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Sum the pieces of each word into the embedding of that word.

    This is a product with the one-hot membership matrix and not a scatter: the order of summation is fixed, forward and
    backward, on every device, and nothing waits for the device. It costs B L² H, little beside a layer of the encoder.

    Args:
        pieces: (B, L, H) floating point.
        word_ids: (B, L) integers: index of the word that each piece belongs to, 0, 1, 2, ... without gaps; -1 = no word
            ([SEP], padding). The values of such a piece, NaN included, never matter.

    Returns:
        words (B, L, H), with word w of text b in [b, w] and zeros after the text's last word (there are never more
        words than pieces); and the number of words of each text, (B,) int64.

    Raises:
        ValueError: shapes that do not match.
        TypeError: `word_ids` is not integral.
    """
    if pieces.dim() != 3 or word_ids.shape != pieces.shape[:2]:
        raise ValueError(
            f"word_ids has the shape {tuple(word_ids.shape)} and pieces {tuple(pieces.shape)}; expected (B, L) and "
            "(B, L, H)"
        )
    if word_ids.is_floating_point() or word_ids.is_complex() or word_ids.dtype == torch.bool:
        raise TypeError(f"word_ids has the dtype {word_ids.dtype}; expected integers, as GloriaProcessor gives them")
    in_word = word_ids.unsqueeze(-1) >= 0
    index = torch.arange(pieces.shape[1], device=pieces.device)
    membership = (index.view(1, -1, 1) == word_ids.unsqueeze(1)).to(pieces.dtype)
    words = membership @ pieces.masked_fill(~in_word, 0)
    return words, word_ids.amax(1).to(torch.int64) + 1


def mean_pieces(pieces: Tensor, attention_mask: Tensor) -> Tensor:
    """Return the sentence embedding: the mean over a text's pieces, [CLS] and [SEP] included.

    The released code takes the mean over the merged words, and counts the zeros of the padding. Merging is a sum, so
    both are the same sum over the pieces with different divisors. The ratio is a positive factor for each text, which
    the cosine of the global score removes. Dividing by the text's own number of pieces makes padding irrelevant.

    Args:
        pieces: (B, L, H) floating point.
        attention_mask: (B, L), nonzero = a piece of the text, 0 = padding, whose values, NaN included, never matter.

    Returns:
        (B, H) in the dtype of `pieces`.
    """
    real = attention_mask.unsqueeze(-1) != 0
    return pieces.masked_fill(~real, 0).sum(1) / real.sum(1).clamp(min=1)
