"""What one rank brings to the batch: checked, in canonical form, its words packed, and what it wants done with them."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gloria_ops.functional import Reduction, check_pairs, check_reduction, checked_logit_scale
from gloria_ops.precision import score_dtype
from gloria_ops.tokens import Ragged, canonical


@dataclass(frozen=True)
class Share:
    """One rank's part of the batch, image i with text i.

    Attributes:
        images: their regions, or one vector each.
        texts: their packed words, or one vector each.
        logit_scale: a float, or a scalar tensor of the dtype of the scores.
        report_ids: (n,) integers, or None.
        settings: by name, what must be the same on every rank.
    """

    images: Ragged
    texts: Ragged
    logit_scale: float | Tensor
    report_ids: Tensor | None
    settings: dict[str, object]

    @property
    def count(self) -> int:
        """The number of images, and of texts."""
        return self.texts.starts.shape[0]


def checked_share(
    images: Ragged,
    texts: Ragged,
    logit_scale: float | Tensor,
    reduction: Reduction,
    report_ids: Tensor | None,
    settings: dict[str, object],
) -> Share:
    """Checked, with all that must be the same on every rank in its settings."""
    count = images.starts.shape[0]
    check_pairs(count, texts.starts.shape[0])
    check_reduction(reduction, ("mean", "sum"))  # a loss of each item would be another on each rank
    scale = checked_logit_scale(logit_scale, score_dtype(images.rows.dtype))
    if report_ids is not None:
        report_ids = checked_report_ids(report_ids, images.starts)
    learns = torch.is_grad_enabled()
    settings |= {
        "image dtype": images.rows.dtype,
        "text dtype": texts.rows.dtype,
        "width (D)": texts.rows.shape[1],
        "logit_scale": float(scale.detach() if isinstance(scale, Tensor) else scale),
        "reduction": reduction,
        "whether there are report_ids": report_ids is not None,
        "whether images need a gradient": learns and images.rows.requires_grad,
        "whether texts need a gradient": learns and texts.rows.requires_grad,
        "whether logit_scale needs a gradient": learns and isinstance(scale, Tensor) and scale.requires_grad,
    }
    return Share(images, texts, scale, report_ids, settings)


def canonical_sides(regions: Tensor, words: Tensor, **described: Any) -> tuple[Ragged, Ragged]:
    """`canonical`, which also takes no images with no texts, as a rank may have."""
    if not all(isinstance(side, Tensor) and side.dim() and not len(side) for side in (regions, words)):
        batch = canonical(regions, words, **described)
        return batch.images, batch.texts
    offsets = [0, 1] if words.dim() == 2 else None
    batch = canonical(at_least_one(regions), at_least_one(words), word_offsets=offsets)
    images, texts = (Ragged(*(each[:0] for each in side)) for side in (batch.images, batch.texts))
    return images, texts


def at_least_one(items: Tensor) -> Tensor:
    """`items`, or where there are none one of zeros, so that all else about them can be checked."""
    return items if len(items) else torch.cat([items, items.new_zeros(1, *items.shape[1:])])


def packed(texts: Ragged) -> Ragged:
    """Without what no text owns."""
    rows, starts, lengths = texts
    total = int(lengths.sum())
    side = consecutive(rows, lengths)
    if total == rows.shape[0]:
        return side
    shift = (starts - side.starts).repeat_interleave(lengths, output_size=total)
    return side._replace(rows=rows[torch.arange(total, device=rows.device) + shift])


def consecutive(rows: Tensor, lengths: Tensor) -> Ragged:
    """Items of these lengths, without gaps."""
    return Ragged(rows, lengths.cumsum(0) - lengths, lengths)


def items_of_one_row(rows: Tensor) -> Ragged:
    """Vectors as items of one row."""
    return consecutive(rows, torch.ones(len(rows), dtype=torch.int64, device=rows.device))


def checked_report_ids(report_ids: Tensor, images: Tensor) -> Tensor:
    """As int64 on the device of the images; TypeError or ValueError where these are not their ids."""
    if not isinstance(report_ids, Tensor):
        raise TypeError(
            f"report_ids is a {type(report_ids).__name__}; expected a tensor of integers, one for each image"
        )
    if report_ids.is_floating_point() or report_ids.is_complex() or report_ids.dtype == torch.bool:
        raise TypeError(f"report_ids is {report_ids.dtype}; expected integers, equal for equal reports")
    if report_ids.shape != images.shape[:1]:
        raise ValueError(
            f"report_ids has the shape {tuple(report_ids.shape)}; expected {tuple(images.shape[:1])}, one for each"
        )
    return report_ids.to(images.device, torch.int64)
