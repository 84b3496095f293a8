"""Which pairs belong together: ids or a matrix of weights, checked, and turned into what the losses take."""

import torch
from torch import Tensor

from gloria_ops.precision import score_dtype


def pair_weights(targets: Tensor, dtype: torch.dtype, all_ids: Tensor | None = None) -> Tensor:
    """Return checked targets as weights of the pairs.

    Args:
        targets: (n,) ids, or an (N_v, N_t) matrix of weights.
        dtype: of the scores.
        all_ids: ids of the texts. Default: `targets` themselves.

    Returns:
        (N_v, N_t) of the dtype, at least 0, without a gradient.
    """
    if targets.dim() == 1:
        targets = targets[:, None] == (targets if all_ids is None else all_ids)
    return targets.detach().to(score_dtype(dtype))


def check_targets(targets: Tensor, images: int, texts: int | None, device: torch.device) -> None:
    """Raise TypeError or ValueError if targets do not fit these images and texts; texts None: any number.

    Values are read on the CPU only, outside torch.compile: elsewhere that would wait for the device.
    """
    if not isinstance(targets, Tensor):
        raise TypeError(f"targets is a {type(targets).__name__}; expected a tensor: torch.as_tensor(targets)")
    if targets.dim() == 1:
        if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
            raise TypeError(f"targets is {targets.dtype} of one dimension; expected integer ids, equal for positives")
        expected: tuple[int, ...] = (images,)
        if texts is not None and images != texts:
            raise ValueError(
                f"targets are ids, with {images} images (N_v) and {texts} texts (N_t); expected as many of one as of "
                "the other, or a matrix of weights (N_v, N_t)"
            )
    else:
        if targets.is_complex():
            raise TypeError(f"targets is {targets.dtype}; expected bool or real weights, at least 0")
        expected = (images, targets.shape[-1] if texts is None else texts)
    if tuple(targets.shape) != expected:
        raise ValueError(
            f"targets has the shape {tuple(targets.shape)}; expected {expected}, images by texts, or ids ({images},)"
        )
    if targets.device != device:
        raise ValueError(f"targets is on {targets.device}; expected {device}, as the scores: .to(device)")
    if targets.dim() == 2 and _readable(targets):
        for image, text in (~(targets.isfinite() & (targets >= 0))).nonzero()[:1].tolist():
            raise ValueError(
                f"targets[{image}, {text}] is {targets[image, text].item():g}; expected a finite weight of at least 0"
            )


def check_probabilities(weights: Tensor) -> None:
    """Raise ValueError if a weight is above 1; values are read as above."""
    if _readable(weights):
        for image, text in (weights > 1).nonzero()[:1].tolist():
            raise ValueError(
                f"targets[{image}, {text}] is {weights[image, text].item():g}; expected 0 to 1, the probability that "
                "the pair belongs together: divide by the greatest"
            )


def check_sums(sums: Tensor, side: str) -> None:
    """Raise ValueError if an image (`side` "row") or a text ("column") has no positive; values are read as above."""
    if _readable(sums):
        for item in (sums == 0).nonzero()[:1].flatten().tolist():
            which = f"[{item}]" if side == "row" else f"[:, {item}]"
            raise ValueError(
                f"targets{which} sums to 0, so that this {'image' if side == 'row' else 'text'} has no positive; "
                "expected a weight above 0 in every row and column: leave out what has no partner"
            )


def check_taking_part(pair_mask: Tensor, weights: Tensor | None) -> None:
    """Raise ValueError if a positive takes no part in the loss; weights None: the diagonal. Values as above."""
    if not _readable(pair_mask):
        return
    positive = torch.eye(len(pair_mask), dtype=torch.bool) if weights is None else weights > 0
    for image, text in (positive & ~pair_mask).nonzero()[:1].tolist():
        fix = "True on the diagonal, which holds the positives: pair_mask.fill_diagonal_(True)"
        if weights is not None:
            fix = "True where targets is above 0: pair_mask | (targets > 0)"
        raise ValueError(f"pair_mask[{image}, {text}] is False; expected {fix}")


def _readable(values: Tensor) -> bool:
    return values.device.type == "cpu" and not torch.compiler.is_compiling()
