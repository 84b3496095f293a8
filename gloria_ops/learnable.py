"""What of a score may come as tensors and receive gradients: weights of words, and the two scales."""

from typing import NamedTuple

import torch
from torch import Tensor

from gloria_ops.precision import score_dtype
from gloria_ops.score import LocalScore, checked_scale
from gloria_ops.tokens import Ragged, readable


class Learnable(NamedTuple):
    """Tensors of the dtype of the scores, on the device of the rows; None = what is not given.

    word_weights: (L,), the weight of each row of the attending side, in its order; those of rows that no item owns may
        be anything. None = 1 for all.
    attention_scale, word_scale: (), instead of the score's number, which is then finite and not to be read.
    """

    word_weights: Tensor | None = None
    attention_scale: Tensor | None = None
    word_scale: Tensor | None = None

    @property
    def given(self) -> list[Tensor]:
        """Those that are not None, in their order."""
        return [each for each in self if each is not None]

    def to(self, dtype: torch.dtype) -> "Learnable":
        """Return it in another dtype."""
        return Learnable(*(None if each is None else each.to(dtype) for each in self))


FIXED = Learnable()


def checked_learnable(
    score: LocalScore,
    texts: Ragged,
    word_weights: Tensor | None,
    attention_scale: Tensor | None,
    word_scale: Tensor | None,
) -> Learnable:
    """Return them as `Learnable`, checked; values are checked where that needs no device sync.

    Args:
        score: whose numbers the scales replace.
        texts: the words that have the weights.
        word_weights: (L,), aligned with the rows of the texts, floating.
        attention_scale, word_scale: of one element each, floating.

    Raises:
        TypeError, ValueError: an argument that does not fit, or that the score does not read.
    """
    if word_weights is attention_scale is word_scale is None:
        return FIXED
    if word_weights is not None:
        if score.direction != "t2i":
            raise ValueError(
                f"word_weights are given for direction {score.direction!r}, where words do not attend; expected 't2i': "
                "to weigh regions, exchange regions and words and transpose the scores"
            )
        if score.pool == "max":
            raise ValueError("word_weights are given for pool 'max', which reads none; expected another pool")
        word_weights = word_weights.to(score_dtype(texts.rows.dtype))
        _check_values(word_weights, texts, score)
    if attention_scale is not None and score.attention_scale == float("inf"):
        raise ValueError(
            "attention_scale is a tensor, and the score has the hard maximum: attention_scale=inf; expected a score "
            "with a finite attention_scale"
        )
    if word_scale is not None and score.pool not in ("logsumexp", "softmax"):
        raise ValueError(
            f"word_scale is a tensor, and pool {score.pool!r} reads none; expected pool 'logsumexp' or 'softmax'"
        )
    return Learnable(
        word_weights,
        *(
            None if scale is None else checked_scalar(name, scale).to(texts.rows.device, score_dtype(texts.rows.dtype))
            for name, scale in (("attention_scale", attention_scale), ("word_scale", word_scale))
        ),
    )


def checked_scalar(name: str, scale: Tensor) -> Tensor:
    """Return a tensor of one element as a scalar.

    Raises:
        TypeError, ValueError: it is not a floating tensor of one element, or, on the CPU, its value is out of range.
    """
    if not isinstance(scale, Tensor) or not scale.is_floating_point():
        what = scale.dtype if isinstance(scale, Tensor) else repr(scale)
        raise TypeError(
            f"{name} is {what}; expected a floating tensor of one element: a number goes into the score, "
            f"replace(score, {name}=...)"
        )
    if scale.numel() != 1:
        raise ValueError(f"{name} has the shape {tuple(scale.shape)}; expected one element")
    if readable(scale):
        checked_scale(name, scale.item())
    return scale.reshape(())


def lacks_knobs(score: LocalScore, learnable: Learnable) -> str | None:
    """Return which of the knobs that not every backend has this needs; None if none of them."""
    if score.similarity == "smooth_max" or score.pool == "softmax":
        knob = "similarity='smooth_max'" if score.similarity == "smooth_max" else "pool='softmax'"
        return f"it lacks {knob}"
    for name, tensor in learnable._asdict().items():
        if tensor is not None:
            return f"it lacks {name} as a tensor"
    return None


def _check_values(weights: Tensor, texts: Ragged, score: LocalScore) -> None:
    """Raise ValueError for the first word whose weight is negative or NaN, and for a text without a weight above 0."""
    if not readable(weights):
        return
    known = weights.detach()
    counts = torch.stack([~(known >= 0) | known.isinf(), known > 0]).long().cumsum(1)
    counts = torch.nn.functional.pad(counts, (1, 0))
    wrong, positive = counts[:, texts.starts + texts.lengths] - counts[:, texts.starts]
    for text in wrong.nonzero()[:1, 0].tolist():
        own = known[texts.starts[text] :][: texts.lengths[text]]
        word = int((~(own >= 0) | own.isinf()).nonzero()[0, 0])
        raise ValueError(
            f"word_weights of text {text} has {own[word].item()} at its word {word}; expected finite numbers of at "
            "least 0: word_weights.clamp(min=0)"
        )
    if score.pool != "sum":
        for text in (positive == 0).nonzero()[:1, 0].tolist():
            raise ValueError(
                f"word_weights of text {text} are all 0; expected at least one above 0 for pool {score.pool!r}"
            )
