"""Modules of the losses."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gloria_ops.functional import RELEASED, Reduction, global_contrastive_loss, local_contrastive_loss
from gloria_ops.score import LocalScore, checked_scale


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
        self.log_scale = nn.Parameter(torch.tensor(math.log(self.initial))) if learnable else None

    def forward(self) -> float | Tensor:
        """Return the scale: a float, or a scalar tensor if it is learned."""
        return self.initial if self.log_scale is None else self.log_scale.exp()

    def extra_repr(self) -> str:
        """Return the initial value and whether it is learned, for the printed module."""
        return f"{self.initial:g}, learnable={self.log_scale is not None}"


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

    _losses: ClassVar[Callable[..., tuple[Tensor, Tensor]]] = staticmethod(local_contrastive_loss)

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

    def forward(self, regions: Tensor, words: Tensor, **described: Any) -> tuple[Tensor, Tensor]:
        """Return (image_to_text, text_to_image), scalars.

        Args:
            regions, words: as in `local_contrastive_loss`.
            described: its word_lengths, word_mask, word_offsets, region_lengths, word_weights and pair_mask.
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
            described: its pair_mask.
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
