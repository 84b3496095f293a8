"""Public functions: the contrastive losses of all ranks' images and texts, on every rank."""

import math
from collections.abc import Callable
from typing import Any, Literal, TypeVar, get_args

import torch
import torch.distributed as dist
from torch import Tensor

from gloria_ops import backends, functional, sigmoid
from gloria_ops.distributed import agreement
from gloria_ops.distributed.agreement import Layout, agree
from gloria_ops.distributed.crossentropy import spread_contrastive_losses
from gloria_ops.distributed.gather import GatheredRows, all_gather_uneven
from gloria_ops.distributed.ring import RingScores
from gloria_ops.distributed.share import (
    Share,
    at_least_one,
    canonical_sides,
    check_one_kind,
    checked_report_ids,
    checked_share,
    consecutive,
    items_of_one_row,
    packed,
)
from gloria_ops.distributed.sigmoid import spread_sigmoid_loss
from gloria_ops.distributed.targets import contrasted_pairs
from gloria_ops.functional import RELEASED, Reduction, check_score, check_vectors, cosines
from gloria_ops.learnable import checked_learnable
from gloria_ops.pairs import pair_scores
from gloria_ops.precision import score_dtype
from gloria_ops.score import LocalScore
from gloria_ops.sigmoid import SIGLIP_BIAS
from gloria_ops.targets import check_probabilities, check_sums
from gloria_ops.tokens import Lengths, Ragged

Exchange = Literal["gather", "ring"]
Losses = TypeVar("Losses", Tensor, tuple[Tensor, Tensor])

# Up to this size in bytes, all ranks' words are gathered, and one call of the kernels scores them all. Eight ranks with
# the released batch (48 reports of 46 words, D = 768, 16 bits) have 27 MB. Above it, one block is enough work for a
# call, and the ring hides its transfers, unlike a gather (docs/distributed.md).
GATHER_BYTES = 2**25


def local_contrastive_loss(
    regions: Tensor,
    words: Tensor,
    *,
    word_lengths: Lengths | None = None,
    word_mask: Tensor | None = None,
    word_offsets: Lengths | None = None,
    region_lengths: Lengths | None = None,
    attention_scale: Tensor | None = None,
    word_scale: Tensor | None = None,
    score: LocalScore = RELEASED,
    backend: str | None = None,
    logit_scale: float | Tensor | None = None,
    reduction: Reduction = "mean",
    report_ids: Tensor | None = None,
    targets: Tensor | None = None,
    exchange: Exchange | None = None,
    group: dist.ProcessGroup | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute `gloria_ops.local_contrastive_loss` over all ranks' images and texts; every rank must call it.

    Without an initialized process group, or with one rank, it is that function.

    Args:
        regions, words, word_lengths, word_mask, word_offsets, region_lengths, score, backend: as in
            `gloria_ops.local_scores`, for this rank's items. Ranks may have different numbers of items and longest
            items. A rank may have no items: (0, M, D) or (0, D, H, W), and (0, W, D) or (0, D), without lengths; at
            least one rank must have some.
        attention_scale, word_scale: as in that function, of the same value on every rank.
        logit_scale, reduction: as in that function; "mean" is over all images and texts of the group.
        report_ids: (n,) integers for this rank's n images. Texts with equal ids, on any ranks, are not negatives of
            each other's images: these pairs take no part. Default: every text has its own id. They replace `pair_mask`,
            which no rank could know.
        targets: replace report_ids, as in `gloria_ops.contrastive_losses`: (n,) integer ids, equal for positives, on
            any ranks; or weights (n, N) of this rank's images with the texts of all ranks, in the order of the ranks.
        exchange: "gather" all words, or pass them around in a "ring": the same values, up to rounding. Default: gather
            up to 32 MiB. In the ring, the words that a rank holds do not grow with the number of ranks.
        group: the process group. Default: all processes.

    Returns:
        (image_to_text, text_to_image) of the whole batch, the same bits on every rank. float32 (float64 for float64).
        Backward must run on every rank. It gives the gradient of the *sum* of all ranks' results with respect to this
        rank's inputs, which is R times the gradient of the loss for R ranks. Data parallel training (DDP, FSDP) takes
        the mean of the ranks' gradients, which is exactly the gradient of the loss. Without it, sum the ranks'
        gradients of a parameter, and divide by R.

    Raises:
        TypeError, ValueError, RuntimeError, NotImplementedError: as `gloria_ops.local_contrastive_loss`, on the rank
            whose argument does not fit; on the others a RuntimeError with that rank and message.
        ValueError: the ranks differ in score, logit_scale, reduction, exchange, dtype, width, required gradients, or in
            whether there are report_ids.
        The group's own error if a rank is missing, after its timeout.
    """
    described: dict[str, Any] = {
        "word_lengths": word_lengths,
        "word_mask": word_mask,
        "word_offsets": word_offsets,
        "region_lengths": region_lengths,
    }
    scales = {"attention_scale": attention_scale, "word_scale": word_scale}
    if agreement.rank_count(group) == 1:
        return functional.local_contrastive_loss(
            regions,
            words,
            **described,
            **scales,
            score=score,
            backend=backend,
            logit_scale=logit_scale,
            reduction=reduction,
            **_pairs(report_ids, targets, regions),
        )

    def prepare() -> Share:
        images, texts, settings = _local_sides(regions, words, described, score, backend, exchange, scales)
        scale = score.logit_scale if logit_scale is None else logit_scale
        share = checked_share(images, texts, scale, reduction, report_ids, targets, settings | {"loss": "local"})
        return _with_positives(share)

    def losses(share: Share, layout: Layout) -> tuple[Tensor, Tensor]:
        scores = _local_scores(share, layout, score, exchange, scales)
        return spread_contrastive_losses(scores, reduction, share, layout)

    return _of_ranks(prepare, losses, _device(regions), group)


def local_sigmoid_loss(
    regions: Tensor,
    words: Tensor,
    *,
    attention_scale: Tensor | None = None,
    word_scale: Tensor | None = None,
    score: LocalScore = RELEASED,
    backend: str | None = None,
    logit_scale: float | Tensor | None = None,
    logit_bias: float | Tensor = SIGLIP_BIAS,
    reduction: Reduction = "mean",
    report_ids: Tensor | None = None,
    targets: Tensor | None = None,
    exchange: Exchange | None = None,
    group: dist.ProcessGroup | None = None,
    **described: Any,
) -> Tensor:
    """Compute `gloria_ops.local_sigmoid_loss` of all ranks' images and texts; every rank of the group must call it.

    Without an initialized process group, or with one rank, it is that function. Of the scores, one number a rank
    travels.

    Args:
        regions, words, attention_scale, word_scale, score, backend, report_ids, exchange, group: as in
            `local_contrastive_loss`. Equal reports are neither a yes nor a no; as targets they are a yes.
        logit_scale, logit_bias, reduction: as in `gloria_ops.local_sigmoid_loss`; "mean" is over all images.
        targets: instead of report_ids, as in `local_contrastive_loss`, the weights being probabilities.
        described: word_lengths, word_mask, word_offsets and region_lengths.

    Returns:
        The loss of the whole batch, a scalar, as each of `local_contrastive_loss`, whose remarks on backward hold.

    Raises:
        As `local_contrastive_loss`, and where logit_bias is not the same on every rank.
    """
    scale = score.logit_scale if logit_scale is None else logit_scale
    scales = {"attention_scale": attention_scale, "word_scale": word_scale}
    if agreement.rank_count(group) == 1:
        return sigmoid.local_sigmoid_loss(
            regions,
            words,
            **described,
            **scales,
            score=score,
            backend=backend,
            logit_scale=scale,
            logit_bias=logit_bias,
            reduction=reduction,
            **_pairs(report_ids, targets, regions),
        )

    def prepare() -> Share:
        images, texts, settings = _local_sides(regions, words, described, score, backend, exchange, scales)
        settings["loss"] = "local sigmoid"
        if isinstance(targets, Tensor) and targets.dim() == 2:
            check_probabilities(targets)
        return checked_share(images, texts, scale, reduction, report_ids, targets, settings, logit_bias)

    def loss(share: Share, layout: Layout) -> Tensor:
        return spread_sigmoid_loss(_local_scores(share, layout, score, exchange, scales), reduction, share, layout)

    return _of_ranks(prepare, loss, _device(regions), group)


def global_contrastive_loss(
    image_vectors: Tensor,
    text_vectors: Tensor,
    *,
    logit_scale: float | Tensor = 10.0,
    reduction: Reduction = "mean",
    eps: float = 1e-8,
    report_ids: Tensor | None = None,
    targets: Tensor | None = None,
    group: dist.ProcessGroup | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute InfoNCE over the cosines of all ranks' image and text embeddings; every rank must call it.

    The text embeddings are gathered. Without an initialized process group, or with one rank, it is
    `gloria_ops.functional.global_contrastive_loss`.

    Args:
        image_vectors, text_vectors: (n, D), floating, of this rank; n may differ, and be 0 on some ranks.
        logit_scale, reduction, eps: as in that function.
        report_ids, targets, group: as in `local_contrastive_loss`.

    Returns:
        (image_to_text, text_to_image), as in `local_contrastive_loss`, also for backward.

    Raises:
        As `local_contrastive_loss`.
    """
    if agreement.rank_count(group) == 1:
        return functional.global_contrastive_loss(
            image_vectors,
            text_vectors,
            logit_scale=logit_scale,
            reduction=reduction,
            eps=eps,
            **_pairs(report_ids, targets, image_vectors),
        )

    def prepare() -> Share:
        check_vectors(at_least_one(image_vectors), at_least_one(text_vectors))
        settings: dict[str, object] = {"loss": "global", "eps": eps}
        images, texts = items_of_one_row(image_vectors), items_of_one_row(text_vectors)
        return _with_positives(checked_share(images, texts, logit_scale, reduction, report_ids, targets, settings))

    def losses(share: Share, layout: Layout) -> tuple[Tensor, Tensor]:
        gathered = GatheredRows.apply(share.texts.rows, max(layout.rows), layout.group)
        by_rank = gathered.unflatten(0, (layout.size, -1))
        texts = torch.cat([part[:count] for part, count in zip(by_rank, layout.rows, strict=True)])
        return spread_contrastive_losses(cosines(share.images.rows, texts, eps), reduction, share, layout)

    return _of_ranks(prepare, losses, _device(image_vectors), group)


@torch.compiler.disable(reason="torch.compile breaks the graph where ranks talk to one another")
def _of_ranks(
    prepare: Callable[[], Share],
    losses: Callable[[Share, Layout], Losses],
    device: torch.device,
    group: dist.ProcessGroup | None,
) -> Losses:
    return losses(*agree(prepare, device, group))


def _local_sides(
    regions: Tensor,
    words: Tensor,
    described: dict[str, Any],
    score: LocalScore,
    backend: str | None,
    exchange: Exchange | None,
    scales: dict[str, Tensor | None],
) -> tuple[Ragged, Ragged, dict[str, object]]:
    """Return images, packed texts, and the settings of their scores."""
    check_score(score)
    images, texts = canonical_sides(regions, words, **described)
    if exchange not in (None, *get_args(Exchange)):
        raise ValueError(f"exchange is {exchange!r}; expected 'gather', 'ring', or None for the choice by size")
    learnable = checked_learnable(score, texts, None, **scales)
    chosen = backends.choose(backend, score, images.rows.dtype, images.rows.device, learnable)
    settings: dict[str, object] = {"score": score, "backend": chosen, "exchange": exchange}
    for name, tensor in learnable._asdict().items():
        settings |= {
            name: None if tensor is None else float(tensor.detach()),
            f"whether {name} needs a gradient": tensor is not None and tensor.requires_grad,
        }
    return images, packed(texts), settings


def _with_positives(share: Share) -> Share:
    """Return `share`; raise ValueError if one of its images has no positive."""
    if share.targets is not None and share.targets.dim() == 2:
        check_sums(share.targets.sum(1), "row")
    return share


def _local_scores(
    share: Share, layout: Layout, score: LocalScore, exchange: Exchange | None, scales: dict[str, Tensor | None]
) -> Tensor:
    """Score this rank's images with all texts, (n_r, N)."""
    learnable = checked_learnable(score, share.texts, None, **scales)
    regions, words, backend = share.images.rows, share.texts.rows, str(share.settings["backend"])
    lengths = all_gather_uneven(share.texts.lengths, layout.counts, layout.group)
    texts = [consecutive(words, own) for own in lengths.split(layout.counts)]
    if exchange is None:
        gathered_bytes = layout.size * max(layout.rows) * words.shape[1] * words.element_size()
        exchange = "gather" if gathered_bytes <= GATHER_BYTES else "ring"
    if exchange == "ring":
        return RingScores.apply(regions, words, *learnable, share.images, texts, score, backend, layout)
    most = max(layout.rows)
    rows = GatheredRows.apply(words, most, layout.group)
    starts = torch.cat([owner * most + own.starts for owner, own in enumerate(texts)])
    if not share.count:  # kernels need an image: return an empty matrix that depends on both sides
        return (regions @ rows.T)[:, starts].to(score_dtype(rows.dtype)) * math.prod(learnable.given)
    return pair_scores(share.images, Ragged(rows, starts, lengths), score, backend, learnable)


def _pairs(report_ids: Tensor | None, targets: Tensor | None, images: Tensor) -> dict[str, Tensor | None]:
    """Return the keywords about pairs for one process."""
    check_one_kind(report_ids, targets)
    if report_ids is None:
        return {"targets": targets}
    ids = checked_report_ids(report_ids, images)
    return {"pair_mask": contrasted_pairs(ids, ids, 0)}


def _device(rows: Tensor) -> torch.device:
    """Return the device of the ranks' communication; the CPU if `rows` is not a tensor, which is refused later."""
    return rows.device if isinstance(rows, Tensor) else torch.device("cpu")
