"""SCAN's scores and loss (model.py of kuanghuei/SCAN), fused.

    # at the end of model.py
    from gloria_ops.dropin.scan import xattn_score_t2i, xattn_score_i2t, func_attention, ContrastiveLoss

Same names, argument order, layouts and return values, with the same `opt`. What differs: captions of one word, or one
image, work; scores are float32 (float64 for float64); and no score needs shards, for nothing of the size of the
affinities is kept. Norms by a zero vector have gradients, where there they are NaN.

The default "clipped_l2norm", "softmax" and "no_norm" are fused. "l2norm" and "clipped" are computed by the eager
reference, not fused, which a warning says once. So are "l1norm" and "clipped_l1norm", which end there in a
NameError, though its training script offers them.
"""

from typing import Any

import torch
from torch import Tensor, nn

from gloria_ops import reference
from gloria_ops.dropin.shared import cosine_similarity, naming, plain_lengths
from gloria_ops.functional import local_scores
from gloria_ops.score import Direction, LocalScore, Pool, WordNorm
from gloria_ops.score_losses import hinge_loss
from gloria_ops.tokens import Lengths, check_layout

__all__ = ["ContrastiveLoss", "cosine_similarity", "func_attention", "xattn_score_i2t", "xattn_score_t2i"]

NORMS: dict[str, WordNorm] = {
    "softmax": "softmax",
    "l2norm": "l2",
    "clipped_l2norm": "clipped_l2",
    "l1norm": "l1",
    "clipped_l1norm": "clipped_l1",
    "clipped": "clipped",
    "no_norm": "none",
}
AGGREGATIONS: dict[str, Pool] = {"LogSumExp": "logsumexp", "Max": "max", "Sum": "sum", "Mean": "mean"}


def xattn_score_t2i(images: Tensor, captions: Tensor, cap_lens: Lengths, opt: Any) -> Tensor:
    """Scores of every image with every caption, words attending to regions.

    Args:
        images: (n_image, n_regions, d), floating.
        captions: (n_caption, max_n_word, d), same dtype; what stands behind cap_lens words is never read.
        cap_lens: n_caption integers, 1 to max_n_word: a tensor, or a list of integers or of tensors of one element.
        opt: has raw_feature_norm, agg_func and lambda_softmax (above 0), and for "LogSumExp" lambda_lse (above 0).

    Returns:
        (n_image, n_caption), float32 (float64 for float64).

    Raises:
        TypeError, ValueError: an argument that does not fit, or a value of `opt`, named with its value and the fix.
    """
    return _scores(images, captions, cap_lens, opt, "t2i")


def xattn_score_i2t(images: Tensor, captions: Tensor, cap_lens: Lengths, opt: Any) -> Tensor:
    """Scores of every image with every caption, regions attending to words; all else as in `xattn_score_t2i`."""
    return _scores(images, captions, cap_lens, opt, "i2t")


def func_attention(query: Tensor, context: Tensor, opt: Any, smooth: float, eps: float = 1e-8) -> tuple[Tensor, Tensor]:
    """Attention of the rows of query n over those of context n, and what they attend to (not fused).

    Args:
        query: (n, queryL, d).
        context: (n, sourceL, d), same dtype.
        opt: has raw_feature_norm.
        smooth: attention scale, above 0.
        eps: not read, as there: norms are enlarged by 1e-8.

    Returns:
        (weightedContext (n, queryL, d), attnT (n, sourceL, queryL)), in the dtype of the inputs.
    """
    with naming(attention_scale="smooth"):
        score = LocalScore(word_norm=_word_norm(opt), attention_scale=smooth)
    attention = reference.attention(torch.bmm(query, context.transpose(1, 2)), score)
    return torch.bmm(attention, context), attention.transpose(1, 2)


class ContrastiveLoss(nn.Module):
    """Hinge loss over the scores of a batch.

    Args:
        opt: as in `xattn_score_t2i`, and cross_attn, "t2i" or "i2t".
        margin: in units of the scores. Default 0; the training script passes 0.2.
        max_violation: count the hardest negative of each item only.
    """

    def __init__(self, opt: Any, margin: float = 0, max_violation: bool = False) -> None:
        super().__init__()
        self.opt = opt
        self.margin = margin
        self.max_violation = max_violation

    def forward(self, im: Tensor, s: Tensor, s_l: Lengths) -> Tensor:
        """A scalar, the sum over the batch, from images, captions and their lengths as in `xattn_score_t2i`."""
        score = {"t2i": xattn_score_t2i, "i2t": xattn_score_i2t}
        xattn_score = _option(self.opt, "cross_attn", score)
        with naming(images="im", captions="s", cap_lens="s_l"):
            scores = xattn_score(im, s, s_l, self.opt)
        return hinge_loss(scores, margin=self.margin, max_violation=self.max_violation)


@naming(
    regions="images",
    words="captions",
    word_lengths="cap_lens",
    attention_scale="opt.lambda_softmax",
    word_scale="opt.lambda_lse",
)
def _scores(images: Tensor, captions: Tensor, cap_lens: Lengths, opt: Any, direction: Direction) -> Tensor:
    check_layout("images", images, "(n_image, n_regions, d)")
    check_layout("captions", captions, "(n_caption, max_n_word, d)")
    return local_scores(images, captions, word_lengths=plain_lengths(cap_lens), score=_score(opt, direction))


def _score(opt: Any, direction: Direction) -> LocalScore:
    pool = _option(opt, "agg_func", AGGREGATIONS)
    return LocalScore(
        word_norm=_word_norm(opt),
        attention_scale=_value(opt, "lambda_softmax", "a number above 0"),
        pool=pool,
        word_scale=_value(opt, "lambda_lse", "a number above 0") if pool == "logsumexp" else 1.0,
        pool_divide=True,
        direction=direction,
    )


def _word_norm(opt: Any) -> WordNorm:
    return _option(opt, "raw_feature_norm", NORMS)


def _option(opt: Any, name: str, choices: dict[str, Any]) -> Any:
    expected = f"one of {', '.join(map(repr, choices))}"
    value = _value(opt, name, expected)
    if value not in choices:
        raise ValueError(f"opt.{name} is {value!r}; expected {expected}")
    return choices[value]


def _value(opt: Any, name: str, expected: str) -> Any:
    if not hasattr(opt, name):
        raise TypeError(f"opt has no {name}; expected {expected}: set opt.{name}")
    return getattr(opt, name)
