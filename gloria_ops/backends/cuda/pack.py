"""Both sides as the kernels want them: words in tiles of columns, images padded to one number of rows."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gloria_ops.backends.cuda.device import device_of, dtype_of, empty, loaded
from gloria_ops.tokens import Ragged

# The rows of an operand are padded to whole steps of a product.
STEP = 64


class Words(NamedTuple):
    """Words in tiles of columns, planned and packed on the device."""

    kept: dict[str, Tensor]  # the memory of the plan
    rows: Tensor  # (tiles * WORDS, padded D)
    norms: Tensor
    tiles: int

    def plan(self, first_run: int = 0, counts: Tensor | None = None) -> object:
        """The plan as the kernels read it: all of it, or runs from `first_run` on, so many as `counts` say."""
        kept = {key: value.data_ptr() for key, value in self.kept.items()}
        kept["runs"] = self.kept["runs"][first_run:].data_ptr()
        kept["spans"] = self.kept["spans"][first_run:].data_ptr()
        if counts is not None:
            kept["counts"] = counts.data_ptr()
        return loaded().Plan(**kept, tiles=self.tiles)


class Images(NamedTuple):
    """A chunk of the images, padded."""

    rows: Tensor  # (images, side, padded D)
    norms: Tensor  # (images, side)
    lengths: Tensor
    side: int


def padded(size: int, multiple: int) -> int:
    """The next multiple."""
    return -(-size // multiple) * multiple


def longest(images: Ragged) -> int:
    """Rows that an image has at most: its share of them.

    Raises:
        NotImplementedError: more than the kernels take.
    """
    most, found = loaded().MOST_PASSES * loaded().ROWS, images.rows.shape[0] // images.starts.numel()
    if found > most:
        raise NotImplementedError(
            f"backend='cuda' takes up to {most} regions an image, not {found}; take backend='triton'"
        )
    return found


def pack_words(texts: Ragged) -> Words:
    """Plan the tiles without reading a length on the host: their number is a bound."""
    kernels, rows = loaded(), texts.rows
    count, dim = texts.starts.numel(), rows.shape[1]
    # A tile but the last of texts of L words has more than 9 slots of 8 in use, and a longer text fills its tiles to
    # half and more: L / 64 tiles each, and 7 / 72 for the rest of a slot.
    tiles = rows.shape[0] // 64 + count // 8 + 2

    def integers(*shape: int) -> Tensor:
        return empty(rows, *shape, dtype=torch.int32)

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
        "counts": integers(3),
    }
    packed = empty(rows, tiles * kernels.WORDS, padded(dim, STEP), dtype=rows.dtype)
    words = Words(kept, packed, empty(rows, tiles * kernels.WORDS, dtype=torch.float32), tiles)
    starts, lengths = texts.starts.data_ptr(), texts.lengths.data_ptr()
    kernels.plan(device_of(rows), words.plan(), starts=starts, lengths=lengths, texts=count)
    kernels.pack(
        device_of(rows),
        source=rows.data_ptr(),
        to=packed.data_ptr(),
        norms=words.norms.data_ptr(),
        rows=kept["rows"].data_ptr(),
        used=kept["counts"][1:].data_ptr(),
        count=packed.shape[0],
        dim=dim,
        padded_dim=packed.shape[1],
        dtype=dtype_of(rows),
    )
    return words


def pack_images(images: Ragged, which: slice, side: int) -> Images:
    """Some images, each with `side` rows, zeros behind its own."""
    kernels, rows, starts = loaded(), images.rows, images.starts[which]
    lengths = images.lengths[which].clamp(max=side)
    dim = rows.shape[1]
    packed = empty(rows, starts.numel(), side, padded(dim, STEP), dtype=rows.dtype)
    norms = empty(rows, starts.numel(), side, dtype=torch.float32)
    kernels.pack(
        device_of(rows),
        source=rows.data_ptr(),
        to=packed.data_ptr(),
        norms=norms.data_ptr(),
        starts=starts.data_ptr(),
        lengths=lengths.data_ptr(),
        count=norms.numel(),
        side=side,
        dim=dim,
        padded_dim=packed.shape[2],
        dtype=dtype_of(rows),
    )
    return Images(packed, norms, lengths, side)


def power_of_two_above(x: Tensor, *dims: int) -> Tensor:
    """The least power of two above each |x| along these dimensions, as float32; NaN and infinity do not count."""
    exponent = torch.frexp(torch.nan_to_num(x.abs(), posinf=0.0).amax(dims)).exponent
    return torch.ldexp(torch.ones_like(exponent, dtype=torch.float32), exponent)


def scaled(chunk: Images, width: int) -> tuple[Tensor, Tensor]:
    """Regions as float16 of this width, each image by a power of two so that none is longer than 1, and its inverse."""
    unscale = power_of_two_above(chunk.norms, 1)
    rows = (chunk.rows / unscale[:, None, None]).half()
    return torch.nn.functional.pad(rows, (0, width - rows.shape[2])), unscale
