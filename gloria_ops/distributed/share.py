"""Makes a rank's share of the batch: checked, in canonical form, with packed words and its settings."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gloria_ops.functional import Reduction, check_pairs, check_reduction, checked_logit_scale
from gloria_ops.precision import score_dtype
from gloria_ops.sigmoid import checked_logit_bias
from gloria_ops.targets import check_targets
from gloria_ops.tokens import Ragged, canonical


@dataclass(frozen=True)
class Share:
    """Holds one rank's part of the batch, image i with text i.

    Attributes:
        images: regions, or one embedding each.
        texts: packed words, or one embedding each.
        logit_scale, logit_bias: floats, or scalar tensors of the dtype of the scores.
        report_ids: (n,) integers, or None.
        targets: (n,) integers, weights (n, N), or None.
        settings: by name, values that must be the same on every rank.
    """

    images: Ragged
    texts: Ragged
    logit_scale: float | Tensor
    logit_bias: float | Tensor
    report_ids: Tensor | None
    targets: Tensor | None
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
    targets: Tensor | None,
    settings: dict[str, object],
    logit_bias: float | Tensor = 0.0,
) -> Share:
    """Check a share, and add to its settings all that must be the same on every rank."""
    count = images.starts.shape[0]
    check_pairs(count, texts.starts.shape[0])
    check_reduction(reduction, ("mean", "sum"))  # a loss for each item would differ from rank to rank
    dtype = score_dtype(images.rows.dtype)
    numbers = {
        "logit_scale": checked_logit_scale(logit_scale, dtype),
        "logit_bias": checked_logit_bias(logit_bias, dtype),
    }
    check_one_kind(report_ids, targets)
    if report_ids is not None:
        report_ids = checked_report_ids(report_ids, images.starts)
    if targets is not None:
        check_targets(targets, count, None, images.rows.device)
    learns = torch.is_grad_enabled()
    settings |= {
        "image dtype": images.rows.dtype,
        "text dtype": texts.rows.dtype,
        "width (D)": texts.rows.shape[1],
        **{name: float(each.detach() if isinstance(each, Tensor) else each) for name, each in numbers.items()},
        "reduction": reduction,
        "whether there are report_ids": report_ids is not None,
        "what the targets are": "none" if targets is None else "ids" if targets.dim() == 1 else "weights",
        "number of texts in targets": targets.shape[1] if targets is not None and targets.dim() == 2 else None,
        "whether images need a gradient": learns and images.rows.requires_grad,
        "whether texts need a gradient": learns and texts.rows.requires_grad,
        **{
            f"whether {name} needs a gradient": learns and isinstance(each, Tensor) and each.requires_grad
            for name, each in numbers.items()
        },
    }
    return Share(images, texts, numbers["logit_scale"], numbers["logit_bias"], report_ids, targets, settings)


def canonical_sides(regions: Tensor, words: Tensor, **described: Any) -> tuple[Ragged, Ragged]:
    """Return `canonical` sides; a rank may also have no images and no texts."""
    if not all(isinstance(side, Tensor) and side.dim() and not len(side) for side in (regions, words)):
        batch = canonical(regions, words, **described)
        return batch.images, batch.texts
    offsets = [0, 1] if words.dim() == 2 else None
    batch = canonical(at_least_one(regions), at_least_one(words), word_offsets=offsets)
    images, texts = (Ragged(*(each[:0] for each in side)) for side in (batch.images, batch.texts))
    return images, texts


def at_least_one(items: Tensor) -> Tensor:
    """Return `items`, or one item of zeros if there are none, so that everything else can be checked."""
    return items if len(items) else torch.cat([items, items.new_zeros(1, *items.shape[1:])])


def packed(texts: Ragged) -> Ragged:
    """Drop the rows that no text owns."""
    rows, starts, lengths = texts
    total = int(lengths.sum())
    side = consecutive(rows, lengths)
    if total == rows.shape[0]:
        return side
    shift = (starts - side.starts).repeat_interleave(lengths, output_size=total)
    return side._replace(rows=rows[torch.arange(total, device=rows.device) + shift])


def consecutive(rows: Tensor, lengths: Tensor) -> Ragged:
    """Return items of these lengths, without gaps."""
    return Ragged(rows, lengths.cumsum(0) - lengths, lengths)


def items_of_one_row(rows: Tensor) -> Ragged:
    """Make each row an item."""
    return consecutive(rows, torch.ones(len(rows), dtype=torch.int64, device=rows.device))


def checked_report_ids(report_ids: Tensor, images: Tensor) -> Tensor:
    """Return the ids as int64 on the device of the images; raise TypeError or ValueError if they do not fit."""
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


def check_one_kind(report_ids: Tensor | None, targets: Tensor | None) -> None:
    """Raise ValueError if both are given."""
    if report_ids is not None and targets is not None:
        raise ValueError(
            "report_ids and targets are both given; expected one of them: as report_ids, equal reports of other pairs "
            "take no part in the loss, as targets they are positives"
        )
