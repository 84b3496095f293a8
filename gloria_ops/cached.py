"""Runs encoders in micro-batches, for batches beyond memory; backward computes their activations again.

The loss still sees the whole batch. This is gradient caching (Gao et al., 2021, "Scaling Deep Contrastive Learning
Batch Size under Memory Limited Setup") as one graph. It keeps the embeddings of all micro-batches and computes the loss
of all of them. Backward replays one micro-batch after another, with the random numbers and the autocast settings of its
first pass.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gloria_ops.modules import GlobalContrastiveLoss, LocalContrastiveLoss, total

Inputs = Tensor | Sequence[Tensor | None] | Mapping[str, Tensor | None]
PairLoss = Callable[..., Tensor | tuple[Tensor, Tensor]]


def in_micro_batches(
    encode: Callable[..., Any], inputs: Inputs, micro_batch_size: int | None, module: nn.Module | None = None
) -> Any:
    """Return what `encode` gives for a batch, a micro-batch at a time; backward keeps the activations of one only.

    Values and gradients equal those of encoding the micro-batches one after another and keeping everything. They differ
    from one call with the whole batch if rows of a batch affect each other: a BatchNorm takes the batch statistics of a
    micro-batch, and dropout draws for a micro-batch at a time. Only the first pass updates running statistics: a replay
    works on copies of the buffers.

    One backward adds to each parameter's gradient once. So DistributedDataParallel reduces it once, without any
    setting, if this is called inside the wrapped module.

    Args:
        encode: called as encode(inputs), encode(*inputs) or encode(**inputs); returns a tensor or a tuple of tensors
            with one row for each input row.
        inputs: a tensor (N, ...), or a sequence or mapping of such tensors. None among them is passed on.
        micro_batch_size: most rows of a micro-batch; their sizes differ by one at most. None, or at least N: all rows
            at once, without a replay.
        module: holds the buffers that `encode` may change. Default: `encode`, or the module whose method it is.

    Returns:
        The outputs of `encode` for the whole batch, a tensor or a tuple.

    Raises:
        TypeError: a plain function as `encode`, without `module`; an input or an output that is not a tensor;
            micro_batch_size is not an integer.
        ValueError: micro_batch_size below 1; inputs without rows, or with different numbers of rows; outputs with
            another number of rows than the inputs.
    """
    call, tensors = _as_positional(encode, inputs)
    rows = _row_count(tensors)
    _check_micro_batch_size(micro_batch_size)
    if micro_batch_size is None or micro_batch_size >= rows:
        return call(*tensors)
    contexts = functools.partial(_replay_contexts, _module_of(encode) if module is None else module)
    count = -(-rows // micro_batch_size)
    # Views of nearly equal size: a remainder of one row would have its own batch statistics.
    parts = [[None] * count if each is None else each.tensor_split(count) for each in tensors]
    outputs = [checkpoint(call, *part, use_reentrant=False, context_fn=contexts) for part in zip(*parts, strict=True)]
    single = isinstance(outputs[0], Tensor)
    columns = [outputs] if single else list(zip(*outputs, strict=True))
    for column in columns:
        if not all(isinstance(each, Tensor) for each in column):
            raise TypeError(f"encode returned {type(column[0]).__name__} among its outputs; expected tensors only")
    joined = tuple(torch.cat(list(column)) for column in columns)
    if any(len(each) != rows for each in joined):
        raise ValueError(f"encode returned {[len(each) for each in joined]} rows for {rows}; expected as many of each")
    return joined[0] if single else joined


class CachedLocalGlobalLoss(nn.Module):
    """Computes local plus global contrastive loss of a batch with encoders in micro-batches, see `in_micro_batches`.

    It is for your own training loop; `GloriaModel` has a `micro_batch_size` instead. Encoders that are modules become
    submodules, so that DistributedDataParallel may wrap this module.

    Args:
        encode_images: maps images to (N, D) embeddings and to regions, as `local_contrastive_loss` takes them.
        encode_texts: maps texts to (N, D) embeddings, (N, W, D) words, and (N,) numbers of words.
        micro_batch_size: pairs encoded at once.
        local_loss: called with regions, words, word_lengths and the keywords of `forward`; returns a scalar or
            (image_to_text, text_to_image). Default: `LocalContrastiveLoss()`, released. `LocalSigmoidLoss` and the
            distributed losses work too.
        global_loss: called with both embeddings and the same keywords; returns the same. Default:
            `GlobalContrastiveLoss()`.
        local_weight, global_weight: weights of the two in the total. Default 1, released.
        image_module, text_module: as `module` of `in_micro_batches`.

    Raises:
        TypeError, ValueError: a micro_batch_size that is not an integer, or below 1.
    """

    def __init__(
        self,
        encode_images: Callable[..., tuple[Tensor, Tensor]],
        encode_texts: Callable[..., tuple[Tensor, Tensor, Tensor]],
        micro_batch_size: int | None,
        *,
        local_loss: PairLoss | None = None,
        global_loss: PairLoss | None = None,
        local_weight: float = 1.0,
        global_weight: float = 1.0,
        image_module: nn.Module | None = None,
        text_module: nn.Module | None = None,
    ) -> None:
        super().__init__()
        _check_micro_batch_size(micro_batch_size)
        self.encode_images, self.encode_texts = encode_images, encode_texts
        self.micro_batch_size = micro_batch_size
        self.local_loss = local_loss or LocalContrastiveLoss()
        self.global_loss = global_loss or GlobalContrastiveLoss()
        self.local_weight, self.global_weight = local_weight, global_weight
        self.image_module, self.text_module = image_module, text_module

    def forward(self, images: Inputs, texts: Inputs, pair_mask: Tensor | None = None, **pairs: Tensor | None) -> Tensor:
        """Return the loss, a scalar: both directions of both parts; backward replays the micro-batches.

        Args:
            images, texts: inputs of N rows each, see `in_micro_batches`.
            pair_mask: (N, N), as in `local_contrastive_loss`.
            pairs: targets, as there; for distributed losses report_ids. Both losses get what is given.
        """
        if pair_mask is not None:
            pairs["pair_mask"] = pair_mask
        size = self.micro_batch_size
        image_vectors, regions = in_micro_batches(self.encode_images, images, size, self.image_module)
        text_vectors, words, lengths = in_micro_batches(self.encode_texts, texts, size, self.text_module)
        # The scores need one dtype, and autocast may give two.
        local = total(self.local_loss(regions, words.to(regions.dtype), word_lengths=lengths, **pairs))
        whole = total(self.global_loss(image_vectors, text_vectors, **pairs))
        return self.local_weight * local + self.global_weight * whole


def _check_micro_batch_size(size: int | None) -> None:
    expected = "expected at least 1, or None for the whole batch"
    if size is not None and (not isinstance(size, int) or isinstance(size, bool)):
        raise TypeError(f"micro_batch_size is {size!r}; {expected}")
    if size is not None and size < 1:
        raise ValueError(f"micro_batch_size is {size}; {expected}")


def _as_positional(encode: Callable[..., Any], inputs: Inputs) -> tuple[Callable[..., Any], list[Tensor | None]]:
    """Return `encode` and its inputs as positional arguments, by which a replay finds the devices of the RNG."""
    if isinstance(inputs, Tensor):
        return encode, [inputs]
    if isinstance(inputs, Mapping):
        names = list(inputs)
        return lambda *parts: encode(**dict(zip(names, parts, strict=True))), list(inputs.values())
    if not isinstance(inputs, Sequence):
        raise TypeError(f"inputs is {inputs!r}; expected a tensor (N, ...), or a sequence or mapping of tensors")
    return encode, list(inputs)


def _row_count(tensors: Sequence[Tensor | None]) -> int:
    for position, each in enumerate(tensors):
        if each is not None and not isinstance(each, Tensor):
            raise TypeError(f"input {position} is a {type(each).__name__}; expected a tensor (N, ...) or None")
    rows = [len(each) for each in tensors if each is not None]
    if len(set(rows)) != 1 or rows[0] < 1:
        raise ValueError(f"inputs have {rows} rows; expected tensors of one number of rows, at least 1")
    return rows[0]


def _module_of(encode: Callable[..., Any]) -> nn.Module:
    owner = encode if isinstance(encode, nn.Module) else getattr(encode, "__self__", None)
    if not isinstance(owner, nn.Module):
        raise TypeError(
            f"encode is {encode!r}, which does not tell whose running statistics it updates; give module=, the module "
            "that it calls (an nn.ModuleList of several)"
        )
    return owner


def _replay_contexts(module: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return the contexts of the first pass and of the replay."""
    return nullcontext(), _CopiedBuffers(module)


class _CopiedBuffers(AbstractContextManager[None]):
    """Replaces the buffers of `module` by copies, so that a replay changes nothing; may be entered again.

    A BatchNorm without running statistics would not do: the replay must save as many tensors as the first pass.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.originals: list[tuple[nn.Module, str, Tensor]] = []

    def __enter__(self) -> None:
        modules = self.module.modules()
        self.originals = [(each, name, value) for each in modules for name, value in each.named_buffers(recurse=False)]
        for each, name, value in self.originals:
            setattr(each, name, value.clone())

    def __exit__(self, *_: object) -> None:
        for each, name, value in self.originals:
            setattr(each, name, value)
