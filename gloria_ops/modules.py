"""Modules of the losses."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gloria_ops.functional import RELEASED, Reduction, check_score, global_contrastive_loss, local_contrastive_loss
from gloria_ops.score import LocalScore, checked_scale
from gloria_ops.sigmoid import SIGLIP_BIAS, checked_logit_bias, local_sigmoid_loss


class Scale(nn.Module):
    """Gives a scale: fixed, or learned through its logarithm, so that it stays above 0.

    Args:
        name: of the scale, in messages.
        initial: 1.2e-38 to 3.4e38.
        learnable: make its logarithm a parameter, `log_scale`, a float32 scalar.
    """

    def __init__(self, name: str, initial: float, learnable: bool) -> None:
        super().__init__()
        self.initial = checked_scale(name, initial)
        self.log_scale = nn.Parameter(torch.empty(())) if learnable else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set it to its initial value."""
        if self.log_scale is not None:
            nn.init.constant_(self.log_scale, math.log(self.initial))

    def forward(self) -> float | Tensor:
        """Return the scale: a float, or a scalar tensor if it is learned."""
        return self.initial if self.log_scale is None else self.log_scale.exp()

    def extra_repr(self) -> str:
        """Return the initial value and whether it is learned, for the printed module."""
        return f"{self.initial:g}, learnable={self.log_scale is not None}"


class LogitBias(nn.Module):
    """Holds a bias on the scores, fixed or learned.

    Args:
        initial: finite.
        learnable: make it a parameter, `bias`, a float32 scalar.
    """

    def __init__(self, initial: float, learnable: bool) -> None:
        super().__init__()
        self.initial = float(checked_logit_bias(initial, torch.float32))
        self.bias = nn.Parameter(torch.empty(())) if learnable else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set it to its initial value."""
        if self.bias is not None:
            nn.init.constant_(self.bias, self.initial)

    def forward(self) -> float | Tensor:
        """Return the bias: a float, or a scalar tensor if it is learned."""
        return self.initial if self.bias is None else self.bias

    def extra_repr(self) -> str:
        """Return the initial value and whether it is learned, for the printed module."""
        return f"{self.initial:g}, learnable={self.bias is not None}"


class LocalContrastiveLoss(nn.Module):
    """Computes `local_contrastive_loss` with fixed settings.

    Args:
        score: score to compute. Default: the authors' released code. Its logit_scale is the initial scale.
        learnable_scale: learn the scale on the scores (CLIP does; released: fixed at 10).
        learnable_attention_scale, learnable_word_scale: learn these scales of the score, from where it has them
            (released: fixed).
        reduction: "mean" (released code), "sum" (paper) or "none".
        backend: see `local_scores`.
    """

    _losses: ClassVar[Callable[..., Any]] = staticmethod(local_contrastive_loss)

    def __init__(
        self,
        score: LocalScore = RELEASED,
        *,
        learnable_scale: bool = False,
        learnable_attention_scale: bool = False,
        learnable_word_scale: bool = False,
        reduction: Reduction = "mean",
        backend: str | None = None,
    ) -> None:
        super().__init__()
        check_score(score)
        self.score = score
        self.logit_scale = Scale("logit_scale", score.logit_scale, learnable_scale)
        self.attention_scale = self.word_scale = None
        if learnable_attention_scale:
            self.attention_scale = Scale("attention_scale", score.attention_scale, learnable=True)
        if learnable_word_scale:
            self.word_scale = Scale("word_scale", score.word_scale, learnable=True)
        self.reduction: Reduction = reduction
        self.backend = backend

    @property
    @torch.no_grad()
    def learned_score(self) -> LocalScore:
        """Return the score with the numbers that its scales have by now; on a GPU this waits for them."""
        score = replace(self.score, logit_scale=float(self.logit_scale()))
        if self.attention_scale is not None:
            score = replace(score, attention_scale=float(self.attention_scale()))
        return score if self.word_scale is None else replace(score, word_scale=float(self.word_scale()))

    def forward(self, regions: Tensor, words: Tensor, **described: Any) -> Any:
        """Return (image_to_text, text_to_image), scalars.

        Args:
            regions, words: as in `local_contrastive_loss`.
            described: its word_lengths, word_mask, word_offsets, region_lengths, word_weights, pair_mask and targets.
        """
        for name in ("attention_scale", "word_scale"):
            if getattr(self, name) is not None:
                described[name] = getattr(self, name)()
        return self._losses(
            regions,
            words,
            score=self.score,
            backend=self.backend,
            logit_scale=self.logit_scale(),
            reduction=self.reduction,
            **described,
        )

    def extra_repr(self) -> str:
        """Return the score, reduction and backend, for the printed module."""
        return f"{self.score}, reduction={self.reduction!r}, backend={self.backend!r}"


class LocalSigmoidLoss(LocalContrastiveLoss):
    """Computes `local_sigmoid_loss` with fixed settings; scale and bias are learned, as in SigLIP.

    Args:
        score: score to compute. Default: the authors' released code. Its logit_scale is the initial scale.
        logit_bias: initial bias. Default -10, SigLIP, whose scores are cosines: see `sigmoid_loss`.
        learnable: learn both; else they stay.
        learnable_attention_scale, learnable_word_scale: as in `LocalContrastiveLoss`.
        reduction: "mean" (SigLIP), "sum" or "none".
        backend: see `local_scores`.
    """

    _losses: ClassVar[Callable[..., Any]] = staticmethod(local_sigmoid_loss)

    def __init__(
        self,
        score: LocalScore = RELEASED,
        *,
        logit_bias: float = SIGLIP_BIAS,
        learnable: bool = True,
        learnable_attention_scale: bool = False,
        learnable_word_scale: bool = False,
        reduction: Reduction = "mean",
        backend: str | None = None,
    ) -> None:
        super().__init__(
            score,
            learnable_scale=learnable,
            learnable_attention_scale=learnable_attention_scale,
            learnable_word_scale=learnable_word_scale,
            reduction=reduction,
            backend=backend,
        )
        self.logit_bias = LogitBias(logit_bias, learnable)

    def forward(self, regions: Tensor, words: Tensor, **described: Any) -> Tensor:
        """Return the loss, a scalar.

        Args:
            regions, words: as in `local_sigmoid_loss`.
            described: its word_lengths, word_mask, word_offsets, region_lengths, word_weights, pair_mask and targets.
        """
        return super().forward(regions, words, logit_bias=self.logit_bias(), **described)


class GlobalContrastiveLoss(nn.Module):
    """Computes InfoNCE over the cosines of image and text embeddings, in both directions.

    Args:
        logit_scale: multiplies the cosines; the initial value if learned. Default 10, released (temp3).
        learnable_scale: learn it (released: fixed).
        reduction: "mean" (released code), "sum" (paper) or "none".
        eps: smallest product of two norms to divide by. Default 1e-8, released.
    """

    _losses: ClassVar[Callable[..., tuple[Tensor, Tensor]]] = staticmethod(global_contrastive_loss)

    def __init__(
        self,
        logit_scale: float = 10.0,
        *,
        learnable_scale: bool = False,
        reduction: Reduction = "mean",
        eps: float = 1e-8,
    ) -> None:
        super().__init__()
        self.logit_scale = Scale("logit_scale", logit_scale, learnable_scale)
        self.reduction: Reduction = reduction
        self.eps = checked_scale("eps", eps)

    def forward(self, image_vectors: Tensor, text_vectors: Tensor, **described: Any) -> tuple[Tensor, Tensor]:
        """Return (image_to_text, text_to_image), scalars, float32 (float64 for float64).

        Args:
            image_vectors, text_vectors: as in `gloria_ops.functional.global_contrastive_loss`.
            described: its pair_mask and targets.
        """
        return self._losses(
            image_vectors,
            text_vectors,
            logit_scale=self.logit_scale(),
            reduction=self.reduction,
            eps=self.eps,
            **described,
        )

    def extra_repr(self) -> str:
        """Return the reduction, for the printed module."""
        return f"reduction={self.reduction!r}"


def total(losses: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Return a loss as it is, or the sum of its parts."""
    return losses if isinstance(losses, Tensor) else torch.stack(losses).sum()
