"""Every layout of regions and words, made into one canonical ragged form; the one place that validates them."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from numbers import Integral
from typing import NamedTuple

import torch
from torch import Tensor

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
Lengths = Tensor | Sequence[int]


class Ragged(NamedTuple):
    """One side of the batch: item n owns `rows[starts[n] : starts[n] + lengths[n]]`.

    rows: (L, D), contiguous; rows that no item owns may hold anything.
    starts, lengths: (N,) int64, on the device of the rows.
    """

    rows: Tensor
    starts: Tensor
    lengths: Tensor


class Batch(NamedTuple):
    """Both sides, and the (H, W) of the feature maps where regions came as such."""

    images: Ragged
    texts: Ragged
    grid: tuple[int, int] | None


def canonical(
    regions: Tensor,
    words: Tensor,
    *,
    word_lengths: Lengths | None = None,
    word_mask: Tensor | None = None,
    word_offsets: Lengths | None = None,
    region_lengths: Lengths | None = None,
) -> Batch:
    """Both sides in canonical form; the arguments are those of `gloria_ops.local_scores`.

    Dtypes, devices and shapes are always checked. Values (lengths within range, offsets that rise) are checked where
    they can be read without a device sync: on the CPU, outside torch.compile and torch.export. Backends check ranges
    again before they take an address. Under autocast both sides are cast to its dtype, float64 excepted.

    Raises:
        TypeError, ValueError: an argument that does not fit, named with its value and the fix.
    """
    for name, rows in (("regions", regions), ("words", words)):
        _check_floating(name, rows)
    if regions.device != words.device:
        raise ValueError(
            f"regions are on {regions.device} and words on {words.device}; expected one device: move one, .to(device)"
        )
    if _autocasts(regions) and _autocasts(words):
        dtype = torch.get_autocast_dtype(regions.device.type)
        regions, words = regions.to(dtype), words.to(dtype)
    if regions.dtype != words.dtype:
        raise TypeError(
            f"regions are {regions.dtype} and words {words.dtype}; expected one dtype: cast one, .to(dtype)"
        )
    images, grid = _images(regions, region_lengths)
    texts = _texts(words, word_lengths, word_mask, word_offsets)
    if images.rows.shape[1] != texts.rows.shape[1]:
        raise ValueError(
            f"regions are {images.rows.shape[1]} wide and words {texts.rows.shape[1]} (D), from the shapes "
            f"{tuple(regions.shape)} and {tuple(words.shape)}; project both to one width"
        )
    return Batch(images, texts, grid)


def _check_floating(name: str, rows: Tensor) -> None:
    if not isinstance(rows, Tensor):
        raise TypeError(f"{name} is a {type(rows).__name__}; expected a tensor: torch.as_tensor({name})")
    if rows.dtype not in DTYPES:
        raise TypeError(f"{name} is {rows.dtype}; expected float16, bfloat16, float32 or float64: {name}.float()")


def _autocasts(rows: Tensor) -> bool:
    device = rows.device.type
    return rows.dtype != torch.float64 and torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def _images(regions: Tensor, region_lengths: Lengths | None) -> tuple[Ragged, tuple[int, int] | None]:
    if regions.dim() == 3:
        _check_shape("regions", regions, "(N_v, M, D)")
        return _padded("region_lengths", region_lengths, regions), None
    if regions.dim() != 4:
        raise ValueError(
            f"regions has the shape {tuple(regions.shape)}; expected (N_v, M, D), or feature maps (N_v, D, H, W)"
        )
    _check_shape("regions", regions, "(N_v, D, H, W)")
    if region_lengths is not None:
        raise ValueError(
            f"region_lengths is given with feature maps {tuple(regions.shape)}, whose regions are all real; "
            "leave it out, or give regions as (N_v, M, D)"
        )
    return _padded("region_lengths", None, regions.flatten(2).transpose(1, 2)), (regions.shape[2], regions.shape[3])


def _texts(
    words: Tensor, word_lengths: Lengths | None, word_mask: Tensor | None, word_offsets: Lengths | None
) -> Ragged:
    described = {"word_lengths": word_lengths, "word_mask": word_mask, "word_offsets": word_offsets}
    given = [name for name, value in described.items() if value is not None]
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} are all given, but each alone says where texts end; give one of them")
    if words.dim() == 2:
        _check_shape("words", words, "(sum of W, D)")
        if word_offsets is None:
            raise ValueError(
                f"words has the shape {tuple(words.shape)}, packed, without word_offsets; give word_offsets (N_t + 1,),"
                " or words as (N_t, W, D)"
            )
        return _packed(words, word_offsets)
    if words.dim() != 3:
        raise ValueError(
            f"words has the shape {tuple(words.shape)}; expected (N_t, W, D), or packed (sum of W, D) with word_offsets"
        )
    _check_shape("words", words, "(N_t, W, D)")
    if word_offsets is not None:
        raise ValueError(
            f"word_offsets is given with padded words {tuple(words.shape)}; give word_lengths or word_mask instead, "
            "or words as (sum of W, D)"
        )
    if word_mask is not None:
        return _masked(words, word_mask)
    return _padded("word_lengths", word_lengths, words)


def _check_shape(name: str, rows: Tensor, layout: str) -> None:
    if 0 in rows.shape:
        raise ValueError(f"{name} has the shape {tuple(rows.shape)}; expected {layout} with every size at least 1")


def _padded(name: str, lengths: Lengths | None, rows: Tensor) -> Ragged:
    count, longest, width = rows.shape
    if lengths is None:
        lengths = torch.full((count,), longest, device=rows.device)
    else:
        lengths = _integers(name, lengths, count, rows, lambda value: _check_lengths(name, value, longest))
    starts = torch.arange(0, count * longest, longest, device=rows.device)
    return Ragged(rows.reshape(count * longest, width).contiguous(), starts, lengths)


def _masked(words: Tensor, mask: Tensor) -> Ragged:
    if not isinstance(mask, Tensor) or mask.is_floating_point() or mask.is_complex():
        what = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"word_mask is {what}; expected a bool or integer tensor, True or 1 = word: word_mask.bool()")
    longest = words.shape[1]
    if mask.shape != words.shape[:2]:
        raise ValueError(
            f"word_mask has the shape {tuple(mask.shape)}; expected (N_t, W) = {tuple(words.shape[:2])}, that of words"
        )
    mask = _placed(
        "word_mask", mask != 0, words, lambda value: _check_lengths("word_mask.sum(1)", value.sum(1).tolist(), longest)
    )
    # Real words first, in their order: a stable sort keeps static shapes, where indexing by the mask would sync.
    order = torch.argsort(mask.to(torch.uint8), dim=1, descending=True, stable=True)
    gathered = words.gather(1, order[:, :, None].expand(words.shape))
    return _padded("word_mask", None, gathered)._replace(lengths=mask.sum(dim=1))


def _packed(words: Tensor, offsets: Lengths) -> Ragged:
    total = words.shape[0]
    offsets = _integers("word_offsets", offsets, None, words, lambda value: _check_offsets(value, total))
    return Ragged(words.contiguous(), offsets[:-1], offsets.diff())


def _integers(
    name: str, values: Lengths, count: int | None, rows: Tensor, check: Callable[[list[int]], None]
) -> Tensor:
    """Lengths (`count` of them) or offsets (`count` None) as int64 on the device of the rows."""
    if not isinstance(values, Tensor):
        if not hasattr(values, "__len__") or not all(_is_integer(value) for value in values):
            raise TypeError(f"{name} is {values!r}; expected integers, in a list or a tensor")
        values = torch.tensor(values, dtype=torch.int64)
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise TypeError(f"{name} is {values.dtype}; expected integers: {name}.long()")
    if values.dim() != 1 or (count is not None and values.shape[0] != count) or values.shape[0] < 1 + (count is None):
        expected = "(N_t + 1,) with N_t at least 1" if count is None else f"({count},), one for each item"
        raise ValueError(f"{name} has the shape {tuple(values.shape)}; expected {expected}")
    return _placed(name, values, rows, lambda value: check(value.tolist())).to(torch.int64)


def _is_integer(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _placed(name: str, values: Tensor, rows: Tensor, check: Callable[[Tensor], None]) -> Tensor:
    """`values` on the device of the rows, checked first where that needs no device sync."""
    if values.device.type == "cpu":
        if not torch.compiler.is_compiling():
            check(values)
    elif values.device != rows.device:
        raise ValueError(
            f"{name} is on {values.device} and the rows on {rows.device}; expected one device, or {name} on the CPU"
        )
    return values.to(rows.device)


def _check_lengths(name: str, lengths: list[int], longest: int) -> None:
    for item, length in enumerate(lengths):
        if not 1 <= length <= longest:
            fix = "drop empty items" if length == 0 else "count real rows only"
            raise ValueError(f"{name}[{item}] is {length}; expected 1 to {longest}, the padded length: {fix}")


def _check_offsets(offsets: list[int], total: int) -> None:
    if offsets[0] != 0 or offsets[-1] != total:
        raise ValueError(
            f"word_offsets goes from {offsets[0]} to {offsets[-1]}; expected 0 to {total}, the number of packed words"
        )
    for item, (start, end) in enumerate(pairwise(offsets)):
        if end <= start:
            raise ValueError(
                f"word_offsets does not rise from item {item} ({start}) to item {item + 1} ({end}); each text needs at "
                "least one word: drop empty texts"
            )
