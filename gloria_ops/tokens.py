"""Validates every layout of regions and words, and converts it to one canonical ragged form."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
Lengths = Tensor | np.ndarray | Sequence[int]


class Ragged(NamedTuple):
    """Holds one side of the batch: item n owns `rows[starts[n] : starts[n] + lengths[n]]`.

    rows: (L, D), contiguous; rows that no item owns may have any values.
    starts, lengths: (N,) int64, on the device of the rows.
    """

    rows: Tensor
    starts: Tensor
    lengths: Tensor

    def to(self, dtype: torch.dtype) -> "Ragged":
        """Return the side with rows of another dtype."""
        return self._replace(rows=self.rows.to(dtype))


class Batch(NamedTuple):
    """Holds both sides, and (H, W) if the regions were feature maps."""

    images: Ragged
    texts: Ragged
    grid: tuple[int, int] | None


@dataclass(frozen=True)
class _SideNames:
    """Names a side that may be padded or packed, its sizes, its items and its rows, for messages."""

    rows: str
    prefix: str
    count: str
    longest: str
    item: str
    row: str

    @property
    def padded(self) -> str:
        return f"({self.count}, {self.longest}, D)"

    @property
    def packed(self) -> str:
        return f"(sum of {self.longest}, D)"


_WORDS = _SideNames("words", "word", "N_t", "W", "text", "word")
_QUERIES = _SideNames("queries", "query", "Q", "L", "item", "row")
_CORPUS = _SideNames("corpus", "corpus", "N", "L", "item", "row")


def canonical(
    regions: Tensor,
    words: Tensor,
    *,
    word_lengths: Lengths | None = None,
    word_mask: Tensor | None = None,
    word_offsets: Lengths | None = None,
    region_lengths: Lengths | None = None,
) -> Batch:
    """Return both sides in canonical form; the arguments are those of `gloria_ops.local_scores`.

    Dtypes, devices and shapes are always checked. Values (lengths in range, rising offsets) are checked if they can be
    read without a device sync: on the CPU, outside torch.compile and torch.export. Backends check ranges again before
    they take an address. Under autocast both sides are cast to its dtype, except float64.

    Raises:
        TypeError, ValueError: an argument that does not fit, named with its value and the fix.
    """
    for name, rows in (("regions", regions), ("words", words)):
        check_floating(name, rows)
    if _autocasts(regions) and _autocasts(words):
        dtype = torch.get_autocast_dtype(regions.device.type)
        regions, words = regions.to(dtype), words.to(dtype)
    _check_alike("regions", regions, "words", words)
    images, grid = _images(regions, region_lengths)
    texts = _texts(words, word_lengths, word_mask, word_offsets)
    if images.rows.shape[1] != texts.rows.shape[1]:
        raise ValueError(
            f"regions are {images.rows.shape[1]} wide and words {texts.rows.shape[1]} (D), from the shapes "
            f"{tuple(regions.shape)} and {tuple(words.shape)}; project both to one width"
        )
    return Batch(images, texts, grid)


def aligned_weights(
    word_weights: Tensor,
    words: Tensor,
    *,
    word_lengths: Lengths | None = None,
    word_mask: Tensor | None = None,
    word_offsets: Lengths | None = None,
) -> Tensor:
    """Return the weights of words as (L,), one for each row of the texts that `canonical` makes of the same words.

    Raises:
        TypeError, ValueError: weights that are not floating, of another shape or on another device than the words.
    """
    if not isinstance(word_weights, Tensor) or not word_weights.is_floating_point():
        what = word_weights.dtype if isinstance(word_weights, Tensor) else type(word_weights).__name__
        raise TypeError(f"word_weights is {what}; expected a floating tensor, one weight for each word")
    if word_weights.shape != words.shape[:-1]:
        raise ValueError(
            f"word_weights has the shape {tuple(word_weights.shape)}; expected {tuple(words.shape[:-1])}, that of the "
            "words without their width"
        )
    if word_weights.device != words.device:
        raise ValueError(f"word_weights is on {word_weights.device} and words on {words.device}; expected one device")
    return _texts(word_weights.unsqueeze(-1), word_lengths, word_mask, word_offsets).rows.squeeze(-1)


def queries_and_corpus(
    queries: Tensor,
    corpus: Tensor | np.ndarray,
    *,
    query_lengths: Lengths | None = None,
    query_offsets: Lengths | None = None,
    corpus_lengths: Lengths | None = None,
    corpus_offsets: Lengths | None = None,
) -> tuple[Ragged, Ragged]:
    """Return both sides of a search in canonical form; the arguments are those of `gloria_ops.local_topk`.

    The rows of the corpus are never copied or cast, even under autocast, and are only read when they are scored.

    Raises:
        TypeError, ValueError: an argument that does not fit, named with its value and the fix.
    """
    if isinstance(corpus, np.ndarray):
        corpus = _tensor_over(corpus)
    for name, rows in (("queries", queries), ("corpus", corpus)):
        check_floating(name, rows)
    _check_alike("queries", queries, "corpus", corpus)
    if not corpus.is_contiguous():
        raise ValueError(
            f"corpus has the shape {tuple(corpus.shape)} with the strides {corpus.stride()}; expected contiguous rows, "
            "of which no copy is made: store it as corpus.contiguous()"
        )
    asking = _padded_or_packed(_QUERIES, queries, query_lengths, query_offsets)
    searched = _padded_or_packed(_CORPUS, corpus, corpus_lengths, corpus_offsets)
    if asking.rows.shape[1] != searched.rows.shape[1]:
        raise ValueError(
            f"queries are {asking.rows.shape[1]} wide and the corpus {searched.rows.shape[1]} (D), from the shapes "
            f"{tuple(queries.shape)} and {tuple(corpus.shape)}; take queries of the model that made the corpus"
        )
    return asking, searched


class _AsWritable:
    """Presents an array's memory as writable: torch has no read-only tensors, and warns about other arrays."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array  # keeps the memory
        address, _ = array.__array_interface__["data"]
        self.__array_interface__: dict[str, Any] = array.__array_interface__ | {"data": (address, False)}


def _tensor_over(array: np.ndarray) -> Tensor:
    """Return a tensor over the memory of `array`; never write to it, since the array may be a read-only memory map."""
    if array.dtype not in (np.float16, np.float32, np.float64):
        raise TypeError(
            f"corpus is an array of {array.dtype}; expected float16, float32 or float64 in this machine's byte order, "
            "or a tensor, which may be bfloat16: torch.from_file"
        )
    return torch.from_numpy(np.asarray(_AsWritable(array)))


def _check_alike(name: str, rows: Tensor, other: str, others: Tensor) -> None:
    if rows.device != others.device:
        raise ValueError(
            f"{name} are on {rows.device} and {other} on {others.device}; expected one device: move one, .to(device)"
        )
    if rows.dtype != others.dtype:
        raise TypeError(f"{name} are {rows.dtype} and {other} {others.dtype}; expected one dtype: cast one, .to(dtype)")


def check_floating(name: str, rows: Tensor) -> None:
    """Raise TypeError if this is not a tensor of one of `DTYPES`."""
    if not isinstance(rows, Tensor):
        raise TypeError(f"{name} is a {type(rows).__name__}; expected a tensor: torch.as_tensor({name})")
    if rows.dtype not in DTYPES:
        raise TypeError(f"{name} is {rows.dtype}; expected float16, bfloat16, float32 or float64: {name}.float()")


def check_layout(name: str, rows: Tensor, layout: str, fix: str = "") -> None:
    """Raise TypeError or ValueError if this is not a floating tensor of a layout, such as "(N, D)"."""
    check_floating(name, rows)
    if rows.dim() != layout.count(",") + 1:
        raise ValueError(f"{name} has the shape {tuple(rows.shape)}; expected {layout}{fix}")


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
    if (word_lengths is not None) + (word_mask is not None) + (word_offsets is not None) > 1:
        described = {"word_lengths": word_lengths, "word_mask": word_mask, "word_offsets": word_offsets}
        given = [name for name, value in described.items() if value is not None]
        raise ValueError(f"{' and '.join(given)} are all given, but each alone says where texts end; give one of them")
    if word_mask is not None and words.dim() == 3:
        _check_shape("words", words, _WORDS.padded)
        words, real = real_rows_first("word_mask", words, word_mask)
        return _padded("word_mask", None, words)._replace(lengths=real)
    return _padded_or_packed(_WORDS, words, word_lengths, word_offsets)


def _padded_or_packed(names: _SideNames, rows: Tensor, lengths: Lengths | None, offsets: Lengths | None) -> Ragged:
    described, bounds = f"{names.prefix}_lengths", f"{names.prefix}_offsets"
    if rows.dim() == 2:
        _check_shape(names.rows, rows, names.packed)
        if offsets is None:
            raise ValueError(
                f"{names.rows} has the shape {tuple(rows.shape)}, packed, without {bounds}; give {bounds} "
                f"({names.count} + 1,), or {names.rows} as {names.padded}"
            )
        if lengths is not None:
            raise ValueError(f"{described} and {bounds} are both given; for packed {names.rows} give {bounds} alone")
        return _packed(names, rows, offsets)
    if rows.dim() != 3:
        raise ValueError(
            f"{names.rows} has the shape {tuple(rows.shape)}; expected {names.padded}, or packed {names.packed} with "
            f"{bounds}"
        )
    _check_shape(names.rows, rows, names.padded)
    if offsets is not None:
        raise ValueError(
            f"{bounds} is given with padded {names.rows} {tuple(rows.shape)}; give {described} instead, "
            f"or {names.rows} as {names.packed}"
        )
    return _padded(described, lengths, rows)


def _check_shape(name: str, rows: Tensor, layout: str) -> None:
    if 0 in rows.shape:
        raise ValueError(f"{name} has the shape {tuple(rows.shape)}; expected {layout} with every size at least 1")


def _padded(name: str, lengths: Lengths | None, rows: Tensor) -> Ragged:
    count, longest, width = rows.shape
    if lengths is None:
        lengths = torch.full((count,), longest, device=rows.device)
    else:
        lengths = _int64(name, lengths)
        if lengths.dim() != 1 or lengths.shape[0] != count:
            raise ValueError(f"{name} has the shape {tuple(lengths.shape)}; expected ({count},), one for each item")
        lengths = _checked_on_device(name, lengths, rows, lambda value: _check_lengths(name, value, longest))
    if torch.compiler.is_compiling():  # the compiler cannot derive a stepped range's length from dynamic sizes
        starts = torch.arange(count, device=rows.device) * longest
    else:
        starts = torch.arange(0, count * longest, longest, device=rows.device)
    return Ragged(rows.reshape(count * longest, width).contiguous(), starts, lengths)


def real_rows_first(name: str, rows: Tensor, mask: Tensor, or_else: str = "") -> tuple[Tensor, Tensor]:
    """Return rows (N, L, D) with each item's real rows first, in their order, and the number of real rows (N,).

    Args:
        name: name of the mask in messages.
        mask: (N, L) bool or integers, True or 1 = real; at least one in each item.
        or_else: what else helps an item without a real row, for its message.

    Raises:
        TypeError, ValueError: a mask that does not fit.
    """
    if not isinstance(mask, Tensor) or mask.is_floating_point() or mask.is_complex():
        what = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"{name} is {what}; expected a bool or integer tensor, True or 1 = real: {name}.bool()")
    longest = rows.shape[1]
    if mask.shape != rows.shape[:2]:
        raise ValueError(
            f"{name} has the shape {tuple(mask.shape)}; expected (N, L) = {tuple(rows.shape[:2])}, that of the rows"
        )
    mask = _checked_on_device(
        name, mask != 0, rows, lambda value: _check_lengths(f"{name}.sum(1)", value.sum(1), longest, or_else)
    )
    if readable(mask) and bool((mask[:, 1:] <= mask[:, :-1]).all()):
        return rows, mask.sum(dim=1)  # padding at the end, as nearly always: nothing to copy
    # A stable sort keeps shapes static; indexing by the mask would sync.
    order = torch.argsort(mask.to(torch.uint8), dim=1, descending=True, stable=True)
    return rows.gather(1, order[:, :, None].expand(rows.shape)), mask.sum(dim=1)


def _packed(names: _SideNames, rows: Tensor, offsets: Lengths) -> Ragged:
    name, total = f"{names.prefix}_offsets", rows.shape[0]
    offsets = _int64(name, offsets)
    if offsets.dim() != 1 or offsets.shape[0] < 2:
        raise ValueError(
            f"{name} has the shape {tuple(offsets.shape)}; expected ({names.count} + 1,) with {names.count} at least 1"
        )
    offsets = _checked_on_device(name, offsets, rows, lambda value: _check_offsets(names, value, total))
    return Ragged(rows.contiguous(), offsets[:-1], offsets.diff())


def _int64(name: str, values: Lengths) -> Tensor:
    """Return lengths or offsets as an int64 tensor."""
    if isinstance(values, np.ndarray):
        values = torch.tensor(values)
    elif not isinstance(values, Tensor):
        if not hasattr(values, "__len__") or not all(_is_integer(value) for value in values):
            raise TypeError(f"{name} is {values!r}; expected integers, in a list or a tensor")
        values = torch.tensor(values, dtype=torch.int64)
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise TypeError(f"{name} is {values.dtype}; expected integers: {name}.long()")
    return values.to(torch.int64)


def _is_integer(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _checked_on_device(name: str, values: Tensor, rows: Tensor, check: Callable[[Tensor], None]) -> Tensor:
    """Return `values` on the device of the rows, after a check if it needs no device sync."""
    if values.device.type == "cpu":
        if not torch.compiler.is_compiling():
            check(values)
    elif values.device != rows.device:
        raise ValueError(
            f"{name} is on {values.device} and the rows on {rows.device}; expected one device, or {name} on the CPU"
        )
    return values.to(rows.device)


def readable(values: Tensor) -> bool:
    """Return whether values can be read without a device sync and outside of tracing."""
    return (
        values.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
    )


def _check_lengths(name: str, lengths: Tensor, longest: int, or_else: str = "") -> None:
    least, most = lengths.aminmax()
    if least >= 1 and most <= longest:
        return
    for item in _first_place((lengths < 1) | (lengths > longest)):
        length = int(lengths[item])
        fix = f"drop empty items{or_else}" if length == 0 else "count real rows only"
        raise ValueError(f"{name}[{item}] is {length}; expected 1 to {longest}, the padded length: {fix}")


def _check_offsets(names: _SideNames, offsets: Tensor, total: int) -> None:
    name = f"{names.prefix}_offsets"
    first, last = int(offsets[0]), int(offsets[-1])
    if first != 0 or last != total:
        raise ValueError(
            f"{name} goes from {first} to {last}; expected 0 to {total}, the number of packed {names.row}s"
        )
    for item in _first_place(offsets[1:] <= offsets[:-1]):
        raise ValueError(
            f"{name} does not rise from item {item} ({int(offsets[item])}) to item {item + 1} "
            f"({int(offsets[item + 1])}); each {names.item} needs at least one {names.row}: drop empty {names.item}s"
        )


def _first_place(wrong: Tensor) -> list[int]:
    """Return the first index where `wrong` is True, if any; a loop over a corpus's items would be slow."""
    return wrong.nonzero()[:1, 0].tolist()
