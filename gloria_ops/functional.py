"""Public functions: local_scores, local_contrastive_loss, attention_maps. They validate, then call a backend."""

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from gloria_ops import backends, reference
from gloria_ops.learnable import Learnable, checked_learnable, checked_scalar
from gloria_ops.pairs import chosen_scores, in_roles, pair_scores, turned
from gloria_ops.precision import no_autocast, score_dtype
from gloria_ops.score import LocalScore, checked_scale
from gloria_ops.targets import check_sums, check_taking_part, check_targets, pair_weights
from gloria_ops.tokens import Lengths, Ragged, aligned_weights, canonical, check_floating, check_layout

Reduction = Literal["mean", "sum", "none"]
RELEASED = LocalScore.released()
OR_TARGETS = ", or give targets (N_v, N_t)"


def local_scores(
    regions: Tensor,
    words: Tensor,
    *,
    word_lengths: Lengths | None = None,
    word_mask: Tensor | None = None,
    word_offsets: Lengths | None = None,
    region_lengths: Lengths | None = None,
    word_weights: Tensor | None = None,
    attention_scale: Tensor | None = None,
    word_scale: Tensor | None = None,
    score: LocalScore = RELEASED,
    backend: str | None = None,
) -> Tensor:
    """Return the local score of every image with every text, differentiable in all tensors.

    Args:
        regions: (N_v, M, D), or feature maps (N_v, D, H, W), whose regions are the pixels in reading order. float16,
            bfloat16, float32 or float64; kernels accumulate in float32.
        words: (N_t, W, D) padded, or (sum of W, D) packed; dtype and device of the regions. The values of padding, NaN
            included, never matter.
        word_lengths: (N_t,) integers, words of each padded text, 1 to W. Default: W for all.
        word_mask: (N_t, W) bool or integers, instead of word_lengths: True = word. Any pattern with at least one word.
        word_offsets: (N_t + 1,) integers, for packed words: text i owns words[word_offsets[i] : word_offsets[i + 1]].
        region_lengths: (N_v,) integers, regions of each padded image, 1 to M. Default: M for all.
        word_weights: (N_t, W) or (sum of W,) as the words are, floating, finite and at least 0: how much each word
            counts in the pool (docs/mathematics.md). Default: 1 for all.
        attention_scale, word_scale: floating tensors of one element, above 0, which may be learnable, instead of the
            score's own numbers.
        score: score to compute. Default: the authors' released code.
        backend: "cpu", "triton" or "reference". Default: the fused one for the device and dtype; the reference for
            float64, and, with a warning, if no fused one serves.

    Returns:
        (N_v, N_t), float32 (float64 for float64). All backends but "reference" are differentiable only once.

    Raises:
        TypeError, ValueError: an argument that does not fit, named with its value and the fix.
        RuntimeError: the backend asked for cannot run on this machine.
        NotImplementedError: the backend asked for lacks this score, dtype, device or tensor.
    """
    images, texts, learnable, chosen = _prepared(
        regions,
        words,
        score,
        backend,
        region_lengths=region_lengths,
        word_weights=word_weights,
        attention_scale=attention_scale,
        word_scale=word_scale,
        word_lengths=word_lengths,
        word_mask=word_mask,
        word_offsets=word_offsets,
    )
    return pair_scores(images, texts, score, chosen, learnable)


def local_pair_scores(
    regions: Tensor,
    words: Tensor,
    pairs: Tensor,
    *,
    score: LocalScore = RELEASED,
    backend: str | None = None,
    **described: Any,
) -> Tensor:
    """Local scores of chosen pairs alone, differentiable in all tensors: hard negatives, lists of candidates.

    Each is the score that `local_scores` gives for the pair. Pairs are computed item by item of the side that has fewer
    different ones among them: few items with many partners each are the fastest.

    Args:
        regions, words, score, backend: as in `local_scores`.
        pairs: (P, 2) integers, rows (image, text), in any order, also repeated; P may be 0. They are read on the host:
            on a GPU this call waits for them.
        described: the other arguments of `local_scores`.

    Returns:
        (P,), float32 (float64 for float64).

    Raises:
        As `local_scores`; TypeError, ValueError: pairs of another shape or beyond the batch.
    """
    images, texts, learnable, chosen = _prepared(regions, words, score, backend, **described)
    pairs = checked_pairs(pairs, images.starts.shape[0], texts.starts.shape[0]).to(images.rows.device, torch.int64)
    return chosen_scores(images, texts, pairs, score, chosen, learnable)


def local_contrastive_loss(
    regions: Tensor,
    words: Tensor,
    *,
    word_lengths: Lengths | None = None,
    word_mask: Tensor | None = None,
    word_offsets: Lengths | None = None,
    region_lengths: Lengths | None = None,
    word_weights: Tensor | None = None,
    attention_scale: Tensor | None = None,
    word_scale: Tensor | None = None,
    score: LocalScore = RELEASED,
    backend: str | None = None,
    logit_scale: float | Tensor | None = None,
    reduction: Reduction = "mean",
    pair_mask: Tensor | None = None,
    targets: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the contrastive loss over the local scores of N images and their N texts; image i belongs to text i.

    Args:
        regions, words, word_lengths, word_mask, word_offsets, region_lengths, word_weights, attention_scale,
            word_scale, score, backend: as in `local_scores`.
        logit_scale: multiplies the scores: a float, or a tensor of one element, which may be learnable. Default: the
            score's own (released: 10).
        reduction: over the N candidates: "mean" (released code), "sum" (paper) or "none".
        pair_mask: (N, N) bool: False = this image and text take no part in the loss, so they are not negatives of each
            other, as with equal reports. The diagonal must be True.
        targets: the pairs that belong together, if not the diagonal alone, see `contrastive_losses`.

    Returns:
        (image_to_text, text_to_image): cross entropy of each image over the texts, and of each text over the images.
        Scalars, or (N,) each for reduction "none"; float32 (float64 for float64).

    Raises:
        As `local_scores`; ValueError if N_v and N_t differ without a matrix of targets.
    """
    scores = local_scores(
        regions,
        words,
        word_lengths=word_lengths,
        word_mask=word_mask,
        word_offsets=word_offsets,
        region_lengths=region_lengths,
        word_weights=word_weights,
        attention_scale=attention_scale,
        word_scale=word_scale,
        score=score,
        backend=backend,
    )
    scale = score.logit_scale if logit_scale is None else logit_scale
    return contrastive_losses(scores, logit_scale=scale, reduction=reduction, pair_mask=pair_mask, targets=targets)


def global_contrastive_loss(
    image_vectors: Tensor,
    text_vectors: Tensor,
    *,
    logit_scale: float | Tensor = 10.0,
    reduction: Reduction = "mean",
    eps: float = 1e-8,
    pair_mask: Tensor | None = None,
    targets: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return InfoNCE over the cosines of N image embeddings and their N text embeddings; image i belongs to text i.

    Args:
        image_vectors, text_vectors: (N, D), floating, not necessarily normalized.
        logit_scale: multiplies the cosines: a float, or a tensor of one element. Default 10, released (temp3).
        reduction: over the N candidates: "mean" (released code) or "sum" (paper).
        eps: smallest product of two norms to divide by. Default 1e-8, released.
        pair_mask, targets: as in `local_contrastive_loss`.

    Returns:
        (image_to_text, text_to_image), scalars, float32 (float64 if either side is float64).

    Raises:
        TypeError, ValueError: embeddings that are not (N, D) each; a pair_mask or targets that do not fit.
    """
    check_vectors(image_vectors, text_vectors)
    scores = cosines(image_vectors, text_vectors, eps)
    return contrastive_losses(
        scores, logit_scale=logit_scale, reduction=reduction, pair_mask=pair_mask, targets=targets
    )


def attention_maps(
    regions: Tensor,
    words: Tensor,
    *,
    word_lengths: Lengths | None = None,
    word_mask: Tensor | None = None,
    word_offsets: Lengths | None = None,
    region_lengths: Lengths | None = None,
    score: LocalScore = RELEASED,
    pairs: Literal["matched"] | Tensor = "matched",
) -> list[Tensor]:
    """Return the attention between the words and the regions of chosen pairs; others are not computed.

    Args:
        regions, words, word_lengths, word_mask, word_offsets, region_lengths, score: as in `local_scores`.
        pairs: (P, 2) integer tensor of (image, text); "matched" = image i with text i, for N_v = N_t.

    Returns:
        P tensors (W_t, M_v), or (W_t, H, W) for feature maps: row i belongs to the i-th real word of the text. float32
        (float64 for float64). In direction t2i each word's map sums to 1 over the regions; in direction i2t each
        region's attention sums to 1 over the words. Their sizes depend on the lengths, which are read on the host: on a
        GPU this call waits for them.

    Raises:
        TypeError, ValueError: as `local_scores`; pairs of another shape or outside the batch.
    """
    batch = canonical(
        regions,
        words,
        word_lengths=word_lengths,
        word_mask=word_mask,
        word_offsets=word_offsets,
        region_lengths=region_lengths,
    )
    check_score(score)
    images, texts = _rows_of_items(batch.images), _rows_of_items(batch.texts)
    with no_autocast(regions.device):
        maps = [
            _attention(images[image], texts[text], score)
            for image, text in _matched_or_chosen(pairs, len(images), len(texts))
        ]
    return maps if batch.grid is None else [each.unflatten(1, batch.grid) for each in maps]


def contrastive_losses(
    scores: Tensor,
    *,
    logit_scale: float | Tensor,
    reduction: Reduction = "mean",
    pair_mask: Tensor | None = None,
    targets: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the cross entropies of logit_scale * scores over rows and over columns.

    With targets T, an image should have its row, divided by the row's sum, for its distribution over the texts, and a
    text its column likewise::

        sum_j T_ij / (sum_k T_ik) * -log softmax_k(logit_scale * scores_ik)_j

    Args:
        scores: (N_v, N_t), rows images, columns texts, float32 or float64; N_v = N_t but for a matrix of targets.
        logit_scale, reduction, pair_mask: as in `local_contrastive_loss`.
        targets: (N_v, N_t) bool or real weights of at least 0 (no gradients), or (N,) integer ids: image i and text j
            of equal ids belong together. Default: the diagonal.

    Returns:
        (image_to_text, text_to_image), scalars, or (N_v,) and (N_t,) for reduction "none", of the dtype of the scores.

    Raises:
        TypeError, ValueError: an argument that does not fit, named with its value and the fix. On the CPU also a row or
            column of targets that sums to 0, and a pair_mask that leaves a positive out; on a GPU, which would have to
            wait, these give losses that are NaN or infinite.
    """
    if targets is None:
        check_square(scores, OR_TARGETS)
    weights = checked_weights(targets, scores)
    check_reduction(reduction)
    logit_scale = checked_logit_scale(logit_scale, scores.dtype)
    with no_autocast(scores.device):
        logits = logit_scale * scores
        if pair_mask is not None:
            check_pair_mask(pair_mask, scores)
            check_taking_part(pair_mask, weights)
            logits = logits.masked_fill(~pair_mask, -math.inf)
        return (
            _cross_entropy(logits, weights, "row", reduction),
            _cross_entropy(logits.T, None if weights is None else weights.T, "column", reduction),
        )


def _cross_entropy(logits: Tensor, weights: Tensor | None, side: str, reduction: Reduction) -> Tensor:
    if weights is None:
        return F.cross_entropy(logits, torch.arange(logits.shape[0], device=logits.device), reduction=reduction)
    sums = weights.sum(1)
    check_sums(sums, side)
    # What has no weight may have a logit of minus infinity.
    parts = logits.log_softmax(1).masked_fill(weights == 0, 0) * weights
    return reduced(-parts.sum(1) / sums, reduction)


def reduced(losses: Tensor, reduction: Reduction) -> Tensor:
    """Return the mean or sum of the losses (N,), or the losses themselves."""
    if reduction == "none":
        return losses
    return losses.mean() if reduction == "mean" else losses.sum()


def checked_weights(targets: Tensor | None, scores: Tensor) -> Tensor | None:
    """Return checked targets of these scores as weights of their pairs; None if there are none."""
    check_matrix(scores)
    if targets is None:
        return None
    check_targets(targets, scores.shape[0], scores.shape[1], scores.device)
    return pair_weights(targets, scores.dtype)


def check_pairs(images: int, texts: int, or_else: str = ", or take local_scores") -> None:
    """Raise ValueError if the numbers of images and texts differ; `or_else` is what else helps."""
    if images != texts:
        raise ValueError(
            f"there are {images} images (N_v) and {texts} texts (N_t); expected as many of one as of the other, image "
            f"i with text i: drop what has no partner{or_else}"
        )


def check_reduction(reduction: Reduction, known: Sequence[str] = get_args(Reduction)) -> None:
    """Raise ValueError if `reduction` is not a known one."""
    if reduction not in known:
        meant = {"mean": "'mean' (released code)", "sum": "'sum' (paper)", "none": "'none'"}
        raise ValueError(f"reduction is {reduction!r}; expected {' or '.join(meant[each] for each in known)}")


def checked_logit_scale(logit_scale: float | Tensor, dtype: torch.dtype) -> float | Tensor:
    """Return a scale on scores of `dtype`: a tensor as a scalar of that dtype, or a float; raise if it is neither."""
    if isinstance(logit_scale, Tensor):
        return checked_scalar("logit_scale", logit_scale).to(dtype)
    if not torch.compiler.is_compiling():  # a compiled float may be symbolic
        checked_scale("logit_scale", logit_scale)
    return logit_scale


def cosines(images: Tensor, texts: Tensor, eps: float = 1e-8) -> Tensor:
    """Return the cosine of every image embedding with every text embedding, in float32 or float64 despite autocast.

    Args:
        images: (N_v, D), floating.
        texts: (N_t, D), floating, on the same device.
        eps: smallest product of two norms to divide by. Default 1e-8, as in the released code.

    Returns:
        (N_v, N_t), float32 (float64 if either is float64).

    Raises:
        TypeError, ValueError: embeddings that are not (N, D) each, of one width and on one device.
    """
    _check_vectors_alike("images", images, "texts", texts)
    dtype = score_dtype(images.dtype, texts.dtype)
    with no_autocast(images.device):
        images, texts = images.to(dtype), texts.to(dtype)
        norms = torch.linalg.vector_norm(images, dim=1)[:, None] * torch.linalg.vector_norm(texts, dim=1)
        return (images @ texts.T) / norms.clamp(min=eps)


def check_vectors(images: Tensor, texts: Tensor) -> None:
    """Raise TypeError or ValueError if these are not embeddings of images and texts, (N, D) each."""
    _check_vectors_alike("image_vectors", images, "text_vectors", texts)
    for name, vectors in (("image_vectors", images), ("text_vectors", texts)):
        if 0 in vectors.shape:
            raise ValueError(f"{name} has the shape {tuple(vectors.shape)}; expected (N, D) with N and D at least 1")


def _check_vectors_alike(name: str, images: Tensor, other: str, texts: Tensor) -> None:
    """Raise TypeError or ValueError if these are not (N, D) each; N may be 0."""
    check_layout(name, images, "(N, D)")
    check_layout(other, texts, "(N, D)")
    if images.shape[1] != texts.shape[1] or images.device != texts.device:
        raise ValueError(
            f"{name} are {tuple(images.shape)} on {images.device} and {other} {tuple(texts.shape)} on {texts.device}; "
            "expected one width and one device"
        )


def check_matrix(scores: Tensor) -> None:
    """Raise TypeError or ValueError if the scores are not a floating matrix."""
    check_floating("scores", scores)
    if scores.dim() != 2:
        raise ValueError(f"scores has the shape {tuple(scores.shape)}; expected (N, N), images by texts")


def check_square(scores: Tensor, or_else: str = "") -> None:
    """Raise TypeError or ValueError if the scores are not (N, N), as many images as texts; `or_else` as above."""
    check_matrix(scores)
    images, texts = scores.shape
    check_pairs(images, texts, or_else)


def check_score(score: LocalScore) -> None:
    """Raise TypeError if `score` is not a LocalScore."""
    if not isinstance(score, LocalScore):
        raise TypeError(
            f"score is {score!r}; expected a gloria_ops.LocalScore, such as LocalScore.released() or "
            "LocalScore.paper(tau2, tau3)"
        )


def check_pair_mask(pair_mask: Tensor, scores: Tensor) -> None:
    """Raise TypeError or ValueError if this is not a mask of the scores."""
    if not isinstance(pair_mask, Tensor) or pair_mask.dtype != torch.bool:
        what = pair_mask.dtype if isinstance(pair_mask, Tensor) else type(pair_mask).__name__
        raise TypeError(f"pair_mask is {what}; expected a bool tensor, True = the pair takes part: pair_mask.bool()")
    if pair_mask.shape != scores.shape:
        raise ValueError(
            f"pair_mask has the shape {tuple(pair_mask.shape)}; expected {tuple(scores.shape)}, images by texts"
        )
    if pair_mask.device != scores.device:
        raise ValueError(f"pair_mask is on {pair_mask.device}; expected {scores.device}, as the scores: .to(device)")


def _prepared(
    regions: Tensor,
    words: Tensor,
    score: LocalScore,
    backend: str | None,
    *,
    region_lengths: Lengths | None = None,
    word_weights: Tensor | None = None,
    attention_scale: Tensor | None = None,
    word_scale: Tensor | None = None,
    **layout: Any,
) -> tuple[Ragged, Ragged, Learnable, str]:
    """Images, texts, what is learnable, and the name of the backend, of the arguments of `local_scores`."""
    images, texts, _ = canonical(regions, words, region_lengths=region_lengths, **layout)
    check_score(score)
    weights = None if word_weights is None else aligned_weights(word_weights, words, **layout)
    learnable = checked_learnable(score, texts, weights, attention_scale, word_scale)
    chosen = backends.choose(backend, score, images.rows.dtype, images.rows.device, learnable)
    return images, texts, learnable, chosen


def _rows_of_items(side: Ragged) -> list[Tensor]:
    rows = side.rows.to(score_dtype(side.rows.dtype))
    spans = zip(side.starts.tolist(), side.lengths.tolist(), strict=True)
    return [rows[start : start + length] for start, length in spans]


def _attention(regions: Tensor, words: Tensor, score: LocalScore) -> Tensor:
    attended, attending = in_roles(regions, words, score)
    return turned(reference.attention(attending @ attended.T, score), score)


def _matched_or_chosen(pairs: Literal["matched"] | Tensor, images: int, texts: int) -> Sequence[tuple[int, int]]:
    if isinstance(pairs, str):
        if pairs != "matched":
            raise ValueError(f"pairs is {pairs!r}; expected 'matched' or a (P, 2) integer tensor of (image, text)")
        if images != texts:
            raise ValueError(
                f"pairs is 'matched' with {images} images and {texts} texts; expected as many of one as of the other, "
                "or a (P, 2) tensor of (image, text)"
            )
        return [(item, item) for item in range(images)]
    return checked_pairs(pairs, images, texts, or_else="'matched' or ").tolist()


def checked_pairs(
    pairs: Tensor, first: int, second: int, names: tuple[str, str] = ("an image", "a text"), or_else: str = ""
) -> Tensor:
    """`pairs`; a TypeError or ValueError where they are not (P, 2) integers, or, on the CPU, beyond so many items."""
    layout = f"({', '.join(name.split()[1] for name in names)})"
    if not isinstance(pairs, Tensor) or pairs.is_floating_point() or pairs.is_complex() or pairs.dtype == torch.bool:
        what = pairs.dtype if isinstance(pairs, Tensor) else type(pairs).__name__
        raise TypeError(f"pairs is {what}; expected {or_else}a (P, 2) integer tensor of {layout}")
    if pairs.dim() != 2 or pairs.shape[1] != 2:
        raise ValueError(f"pairs has the shape {tuple(pairs.shape)}; expected (P, 2), each row {layout}")
    if not torch.compiler.is_compiling() and pairs.device.type == "cpu":
        beyond = (pairs < 0) | (pairs >= torch.tensor([first, second]))
        for row in beyond.any(dim=1).nonzero()[:1, 0].tolist():
            raise ValueError(
                f"pairs[{row}] is {tuple(pairs[row].tolist())}; expected {names[0]} of 0 to {first - 1} and {names[1]} "
                f"of 0 to {second - 1}"
            )
    return pairs
