"""The CUDA C++ kernels for 16-bit tensors on GPUs from Ampere on; taken only where they are asked for by name.

Their kernels take regions padded to one number of rows for each image. Where that does not hold (an image longer than
L_v // N_v), its scores are NaN: lengths lie on the device and are not read.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from gloria_ops.learnable import FIXED, Learnable, lacks_knobs
from gloria_ops.score import LocalScore
from gloria_ops.tokens import Ragged

_kernels: ModuleType | None
try:
    from gloria_ops import _cuda as _kernels  # type: ignore[attr-defined,no-redef]
except ImportError as error:
    _kernels = None
    _import_error = str(error)

name = "cuda"
differentiable = False
attended_of_any_length = False
caution = (
    "gloria_ops takes its CUDA C++ kernels: they are proven by an emulation of their instructions and compiled for "
    "sm_80 and sm_90, but no run on a GPU is on record yet"
)

_DTYPES = (torch.bfloat16, torch.float16)
_WORD_NORMS = ("none", "softmax")
# What has cp.async and bf16 products.
_LEAST_CAPABILITY = (8, 0)
# Bytes of what is made for the images of one chunk (one image at least).
_WORKSPACE_BYTES = 192 << 20
# With the symmetric half of G, |c|^2 through it is less work up to M = 1.8 D.
_GRAM_UP_TO = 1.8
_LOG2E = 1.4426950408889634
# The rows of an operand are padded to whole steps of a product.
_STEP = 64

_cautioned = False


class _Emulated(NamedTuple):
    """The GPU that the emulator stands for."""

    processors: int
    hopper: bool


_emulated: _Emulated | None = None


@contextmanager
def emulated_by(kernels: ModuleType, processors: int = 2, hopper: bool = False) -> Iterator[None]:
    """Run `kernels`, the same sources compiled for the emulator, on CPU tensors; for tests.

    Args:
        processors: of the GPU that is emulated.
        hopper: it runs code for sm_90a.
    """
    global _kernels, _emulated
    before = _kernels, _emulated
    _kernels, _emulated = kernels, _Emulated(processors, hopper)
    try:
        yield
    finally:
        _kernels, _emulated = before


def describe() -> str:
    """One line for the doctor: what the kernels run on."""
    major, minor = torch.cuda.get_device_capability()
    return f"{torch.cuda.get_device_name()}, sm_{major}{minor}; by name only: no run on a GPU is on record"


def unavailable() -> str | None:
    """Why the backend cannot run here, and the fix; None if it can."""
    if _kernels is None:
        return (
            f"the extension gloria_ops._cuda is missing ({_import_error}); build with nvcc >= 12.4 in PATH, by "
            "`pip install .` or `make setup`"
        )
    if not _emulated and not torch.cuda.is_available():
        return "there is no CUDA device"
    return None


def unsupported(
    score: LocalScore, dtype: torch.dtype, device: torch.device, learnable: Learnable = FIXED
) -> str | None:
    """Why this problem is not for this backend; None if it is."""
    expected = "cpu" if _emulated else "cuda"
    if device.type != expected:
        return f"it computes on {expected} tensors, not on {device}"
    if expected == "cuda" and torch.cuda.get_device_capability(device) < _LEAST_CAPABILITY:
        return f"it needs compute capability 8.0, and {device} has {torch.cuda.get_device_capability(device)}"
    if dtype not in _DTYPES:
        return f"it takes bfloat16 and float16, not {dtype}"
    if score.word_norm not in _WORD_NORMS:
        return f"it lacks word_norm={score.word_norm!r}: it has {', '.join(map(repr, _WORD_NORMS))}"
    if score.direction != "t2i":
        return f"it lacks direction={score.direction!r}: it takes what attention runs over as padded to one length"
    if math.isinf(score.attention_scale) and (score.word_norm, score.similarity) != ("none", "dot"):
        return "it has the hard maximum for word_norm='none' with similarity='dot' only"
    return lacks_knobs(score, learnable)


def forward(
    attended: Ragged,
    attending: Ragged,
    score: LocalScore,
    search_words: int = 0,
    learnable: Learnable = FIXED,
) -> Tensor:
    """Return scores (N, T) float32 of N attended items with T attending ones.

    The way to the contexts' norms depends on M and D alone, whatever `search_words` are.

    Raises:
        NotImplementedError: more regions an image than the kernels take.
    """
    _caution_once()
    with torch.cuda.device_of(attended.rows):
        images, texts = (Ragged(*(each.contiguous() for each in side)) for side in (attended, attending))
        return _forward(images, texts, score)


def backward(
    grad_scores: Tensor, attended: Ragged, attending: Ragged, score: LocalScore, learnable: Learnable = FIXED
) -> tuple[Tensor, ...]:
    """Not there yet.

    Raises:
        NotImplementedError: always; the message names a backend that has gradients.
    """
    raise NotImplementedError("backend='cuda' has no gradients yet: take backend='triton', or score without gradients")


class _Words(NamedTuple):
    """Words in tiles of columns, planned and packed on the device."""

    plan: object
    kept: dict[str, Tensor]  # the memory of the plan
    rows: Tensor  # (tiles * WORDS, padded D)
    norms: Tensor
    tiles: int


class _Images(NamedTuple):
    """A chunk of the images, padded."""

    rows: Tensor  # (images, side, padded D)
    norms: Tensor  # (images, side)
    lengths: Tensor
    side: int


def _forward(images: Ragged, texts: Ragged, score: LocalScore) -> Tensor:
    kernels, count, dim = _loaded(), images.starts.numel(), images.rows.shape[1]
    longest = images.rows.shape[0] // count
    side = _padded(longest, kernels.ROWS)
    if side > kernels.MOST_PASSES * kernels.ROWS:
        raise NotImplementedError(
            f"backend='cuda' takes up to {kernels.MOST_PASSES * kernels.ROWS} regions an image, not {longest}; take "
            "backend='triton'"
        )
    device = _device(images.rows)
    words = _pack_words(texts, device)
    cosine = score.similarity == "cosine"
    by_gram = cosine and longest <= _GRAM_UP_TO * dim
    left_dim = _padded(dim, kernels.ROWS) if cosine else 0
    each = side * (2 * _padded(dim, _STEP) + 2 * left_dim + 10 * side * by_gram) + 4 * words.tiles * kernels.WORDS
    at_once = max(1, min(count, _WORKSPACE_BYTES // each))
    scores = _empty(images.rows, count, texts.starts.numel(), dtype=torch.float32)
    for first in range(0, count, at_once):
        chunk = _pack_images(images, slice(first, first + at_once), side, device)
        similarities = _similarities(chunk, words, score, by_gram, left_dim, device)
        kernels.pool(
            device,
            similarities=similarities.data_ptr(),
            lengths=texts.lengths.data_ptr(),
            columns=words.kept["columns"].data_ptr(),
            scores=scores[first:].data_ptr(),
            width=words.tiles * kernels.WORDS,
            images=chunk.rows.shape[0],
            texts=texts.starts.numel(),
            scale=score.word_scale,
            kind=getattr(kernels.Pool, score.pool),
            mean=score.pool_mean,
            divide=score.pool_divide,
        )
    # Longer than the rows it could be given: there is no score of it.
    return scores.masked_fill_((images.lengths > longest)[:, None], math.nan)


def _similarities(
    chunk: _Images, words: _Words, score: LocalScore, by_gram: bool, left_dim: int, device: object
) -> Tensor:
    """The similarity of every column of the tiles with every image of the chunk."""
    kernels, rows = _loaded(), chunk.rows
    count, side, dim = rows.shape
    hard = math.isinf(score.attention_scale)
    scratch = (_processors(rows), side, kernels.WORDS) if left_dim and side > kernels.ON_CHIP * kernels.ROWS else (0,)
    similarities = _empty(rows, count, words.tiles * kernels.WORDS, dtype=torch.float32)
    cancelled = torch.zeros(count * words.tiles if by_gram else 0, dtype=torch.uint8, device=rows.device)
    attention = _empty(rows, *scratch, dtype=torch.float16)
    levels = _empty(rows, _processors(rows), side, 2, dtype=torch.float32)

    def run(norm: object, left: Tensor, unscale: Tensor) -> None:
        kernels.forward(
            device,
            words.plan,
            _dtype(rows),
            words=words.rows.data_ptr(),
            word_norms=words.norms.data_ptr(),
            regions=rows.data_ptr(),
            region_norms=chunk.norms.data_ptr(),
            region_lengths=chunk.lengths.data_ptr(),
            left=left.data_ptr(),
            unscale=unscale.data_ptr(),
            scratch=attention.data_ptr(),
            levels=levels.data_ptr(),
            similarities=similarities.data_ptr(),
            cancelled=cancelled.data_ptr(),
            images=count,
            side=side,
            dim=dim,
            left_dim=left_dim,
            scale=1.0 if hard else score.attention_scale * _LOG2E,
            word_norm=getattr(kernels.WordNorm, score.word_norm),
            norm=norm,
            hard=hard,
        )

    if not left_dim:
        run(kernels.Norm.none, rows, chunk.norms)
        return similarities
    scaled, unscale = _scaled(chunk, left_dim)
    if by_gram:
        run(kernels.Norm.gram, _gram(scaled), unscale)
    run(kernels.Norm.direct_where_cancelled if by_gram else kernels.Norm.direct, scaled, unscale)
    return similarities


def _scaled(chunk: _Images, left_dim: int) -> tuple[Tensor, Tensor]:
    """Regions as float16 of length at most 1, by a power of two for each image, and what undoes it."""
    exponent = torch.frexp(chunk.norms.amax(1)).exponent
    one = torch.ones_like(exponent, dtype=torch.float32)
    scaled = (chunk.rows * torch.ldexp(one, -exponent)[:, None, None]).half()
    return torch.nn.functional.pad(scaled, (0, left_dim - scaled.shape[2])), torch.ldexp(one, exponent)


def _gram(scaled: Tensor) -> Tensor:
    """The Gram matrices in float16: blocks of 16 x 16 below the diagonal twice, above it zero."""
    products = (
        torch.bmm(scaled, scaled.mT, out_dtype=torch.float32) if scaled.is_cuda else scaled.float() @ scaled.float().mT
    )
    block = torch.arange(scaled.shape[1], device=scaled.device) // 16
    factor = 1 + (block[:, None] > block).float() - (block[:, None] < block).float()
    return products.mul_(factor).half()


def _pack_words(texts: Ragged, device: object) -> _Words:
    """Plan the tiles without reading a length on the host: their number is a bound."""
    kernels, rows = _loaded(), texts.rows
    count, dim = texts.starts.numel(), rows.shape[1]
    # A tile but the last of texts of L words has more than 9 slots of 8 in use, and a longer text fills its tiles to
    # half and more: L / 64 tiles each, and 7 / 72 for the rest of a slot.
    tiles = rows.shape[0] // 64 + count // 8 + 2

    def integers(*shape: int) -> Tensor:
        return _empty(rows, *shape, dtype=torch.int32)

    kept = {
        "rows": integers(tiles, kernels.WORDS),
        "slots": integers(tiles, kernels.WORDS // kernels.SLOT),
        "continues": integers(tiles),
        "real": integers(tiles, 4),
        "runs": integers(tiles),
        "spans": integers(tiles),
        "columns": integers(count),
        "order": integers(count),
        "places": integers(count),
        "counts": integers(2),
    }
    plan = kernels.Plan(**{key: value.data_ptr() for key, value in kept.items()}, tiles=tiles)
    kernels.plan(device, plan, starts=texts.starts.data_ptr(), lengths=texts.lengths.data_ptr(), texts=count)
    packed = _empty(rows, tiles * kernels.WORDS, _padded(dim, _STEP), dtype=rows.dtype)
    norms = _empty(rows, tiles * kernels.WORDS, dtype=torch.float32)
    kernels.pack(
        device,
        source=rows.data_ptr(),
        to=packed.data_ptr(),
        norms=norms.data_ptr(),
        rows=kept["rows"].data_ptr(),
        used=kept["counts"][1:].data_ptr(),
        count=packed.shape[0],
        dim=dim,
        padded_dim=packed.shape[1],
        dtype=_dtype(rows),
    )
    return _Words(plan, kept, packed, norms, tiles)


def _pack_images(images: Ragged, which: slice, side: int, device: object) -> _Images:
    kernels, rows, starts = _loaded(), images.rows, images.starts[which]
    lengths = images.lengths[which].clamp(max=side)
    dim = rows.shape[1]
    packed = _empty(rows, starts.numel(), side, _padded(dim, _STEP), dtype=rows.dtype)
    norms = _empty(rows, starts.numel(), side, dtype=torch.float32)
    kernels.pack(
        device,
        source=rows.data_ptr(),
        to=packed.data_ptr(),
        norms=norms.data_ptr(),
        starts=starts.data_ptr(),
        lengths=lengths.data_ptr(),
        count=norms.numel(),
        side=side,
        dim=dim,
        padded_dim=packed.shape[2],
        dtype=_dtype(rows),
    )
    return _Images(packed, norms, lengths, side)


def _loaded() -> ModuleType:
    assert _kernels is not None, "the registry asks `unavailable` first"
    return _kernels


def _padded(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def _empty(like: Tensor, *shape: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=like.device)


def _dtype(rows: Tensor) -> object:
    return getattr(_loaded().DType, str(rows.dtype).removeprefix("torch."))


def _processors(rows: Tensor) -> int:
    return _emulated.processors if _emulated else torch.cuda.get_device_properties(rows.device).multi_processor_count


def _device(rows: Tensor) -> object:
    if _emulated:
        return _loaded().Device(processors=_emulated.processors, hopper=_emulated.hopper, stream=0)
    return _loaded().Device(
        processors=_processors(rows),
        hopper=torch.cuda.get_device_capability(rows.device) == (9, 0),
        stream=torch.cuda.current_stream(rows.device).cuda_stream,
    )


def _caution_once() -> None:
    global _cautioned
    if not _cautioned and not _emulated:
        _cautioned = True
        warnings.warn(caution, RuntimeWarning, stacklevel=3)
