"""The shards of an index: IndexWriter appends them, each whole or not at all, and EmbeddingIndex maps them."""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gloria.data import Problem, Row
from gloria.index.manifest import File, Manifest

# Large enough that what is done once a shard is nothing, small enough to be held while it is filled.
SHARD_BYTES = 2**28


class Items(NamedTuple):
    """Encoded images or texts, N of them.

    whole: (N, D) float32, one vector each, not normalized.
    parts: (sum of L, D) regions of images or words of texts, packed.
    offsets: (N + 1,) int64: item n owns parts[offsets[n] : offsets[n + 1]].
    """

    whole: Tensor
    parts: Tensor
    offsets: Tensor


class IndexWriter:
    """Appends items to an index, a shard at a time; what is killed in between leaves the shards before it.

    Args:
        folder: of the index; made where it does not exist.
        manifest: of what is in it already, or of an empty one.
        shard_bytes: a shard is written when it has so many.
    """

    def __init__(self, folder: str | Path, manifest: Manifest, shard_bytes: int = SHARD_BYTES) -> None:
        if shard_bytes < 1:
            raise ValueError(f"shard_bytes is {shard_bytes}; expected 1 at least, such as {SHARD_BYTES}")
        self.folder, self.manifest, self.shard_bytes = Path(folder), manifest, shard_bytes
        self.folder.mkdir(parents=True, exist_ok=True)
        self._held: list[Items] = []
        self._rows: list[Row] = []

    def add(self, items: Items, rows: Sequence[Row]) -> None:
        """Holds items, and the rows that they come from, for the next shard.

        Raises:
            ValueError: another width; a number that is not finite, or too large for the dtype of the index: the row of
            the first is named.
        """
        count, width = items.whole.shape
        if width != self.manifest.width or len(rows) != count:
            raise ValueError(
                f"there are {count} items, {width} wide, of {len(rows)} rows; expected a row of each, and the width "
                f"of the index, {self.manifest.width}"
            )
        parts = items.parts.to(getattr(torch, self.manifest.dtype)).cpu()
        whole, offsets = items.whole.float().cpu(), items.offsets.cpu()
        item = torch.repeat_interleave(torch.arange(count), offsets.diff())
        bad = [*item[~parts.isfinite().all(1)].tolist(), *(~whole.isfinite().all(1)).nonzero()[:, 0].tolist()]
        if bad:
            raise ValueError(
                f"{rows[min(bad)].where}: its vectors are no finite numbers in {self.manifest.dtype}; take float32 "
                "or bfloat16, which have a wider range, or mend the model"
            )
        self._held.append(Items(whole, parts, offsets))
        self._rows += rows

    @property
    def is_full(self) -> bool:
        """Whether what is held makes a shard."""
        return sum(each.parts.nbytes + each.whole.nbytes for each in self._held) >= self.shard_bytes

    def write(self, done: int, digest: str, bad: Sequence[Problem] = ()) -> None:
        """Writes a shard of what is held, then the manifest, by which it begins to count.

        Args:
            done: rows of the table that are then in the index, or bad.
            digest: of those rows.
            bad: rows that are bad among those since the last call.
        """
        shards = self.manifest.shards
        if self._held:
            name = f"shard-{len(shards):05d}.safetensors"
            shards = (*shards, File.written(self.folder, name, len(self._rows), self._save))
        # Whole vectors that FAISS does not know would never be found.
        nearest, factory = (None, "") if self._held else (self.manifest.nearest, self.manifest.factory)
        self.manifest = replace(
            self.manifest,
            done=done,
            digest=digest,
            bad=(*self.manifest.bad, *bad),
            shards=shards,
            nearest=nearest,
            factory=factory,
        )
        self.manifest.write(self.folder)
        self._held, self._rows = [], []

    def _save(self, path: Path) -> None:
        rows = json.dumps([_described(row) for row in self._rows]).encode()
        save_file({**joined(self._held)._asdict(), "rows": torch.frombuffer(bytearray(rows), dtype=torch.uint8)}, path)


class EmbeddingIndex:
    """An index that is complete, memory-mapped: what is read of it is read when it is scored.

    Attributes:
        folder: where it lies.
        manifest: what it holds.

    Args:
        folder: that `gloria index build` wrote.
        verify: compare the hash of every file, which reads all of it once. Without, sizes and layouts are checked.

    Raises:
        ValueError: no index, an unfinished one, another version; a file that is missing, cut off or changed.
    """

    def __init__(self, folder: str | Path, verify: bool = True) -> None:
        self.folder = Path(folder)
        self.manifest = Manifest.read(self.folder)
        if self.manifest.done < self.manifest.rows:
            raise ValueError(
                f"{folder} is unfinished: {self.manifest.done} of {self.manifest.rows} rows are in it; run the build "
                "again, which continues"
            )
        if not self.manifest.shards:
            raise ValueError(f"{folder} is empty: none of its {self.manifest.rows} rows is good; build another")
        for file in (*self.manifest.shards, *filter(None, [self.manifest.nearest])):
            file.check(self.folder, verify)
        self.shards = [_mapped(self.folder / file.name, file.items, self.manifest) for file in self.manifest.shards]
        counts = torch.tensor([file.items for file in self.manifest.shards])
        self._firsts = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
        self.nearest: Any = None  # what FAISS has read of the index, once it has been asked
        self._rows_of = lru_cache(maxsize=8)(self._read_rows)

    def __len__(self) -> int:
        return int(self._firsts[-1])

    @property
    def firsts(self) -> list[int]:
        """Number of the first item of each shard."""
        return self._firsts[:-1].tolist()

    def gather(self, numbers: Tensor) -> Items:
        """Copies of the items with the given numbers, (n,) int64, rising, within the index."""
        shard_of = torch.searchsorted(self._firsts, numbers, right=True) - 1
        return joined(
            [
                _taken(self.shards[shard], numbers[shard_of == shard] - self._firsts[shard])
                for shard in shard_of.unique().tolist()
            ]
        )

    def rows(self, numbers: Sequence[int]) -> list[Row]:
        """The rows that items come from: line, image, report, patient and label."""
        shard_of = (torch.searchsorted(self._firsts, torch.tensor(numbers, dtype=torch.int64), right=True) - 1).tolist()
        firsts = self.firsts
        return [self._rows_of(shard)[number - firsts[shard]] for number, shard in zip(numbers, shard_of, strict=True)]

    def _read_rows(self, shard: int) -> list[Row]:
        with safe_open(self.folder / self.manifest.shards[shard].name, "pt") as file:
            saved = json.loads(file.get_tensor("rows").numpy().tobytes())
        return [Row(**each | {"image": Path(each["image"]) if each["image"] else None}) for each in saved]


def joined(some: Sequence[Items]) -> Items:
    """Several items in one, in their order."""
    lengths = torch.cat([each.offsets.diff() for each in some])
    return Items(
        torch.cat([each.whole for each in some]),
        torch.cat([each.parts for each in some]),
        torch.nn.functional.pad(lengths.cumsum(0), (1, 0)),
    )


def _taken(items: Items, numbers: Tensor) -> Items:
    starts, lengths = items.offsets[numbers], items.offsets.diff()[numbers]
    offsets = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    rows = torch.repeat_interleave(starts - offsets[:-1], lengths) + torch.arange(int(offsets[-1]))
    return Items(items.whole[numbers], items.parts[rows], offsets)


def _mapped(path: Path, count: int, manifest: Manifest) -> Items:
    try:
        with safe_open(path, "pt") as file:
            items = Items(*(file.get_tensor(name) for name in Items._fields))
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); restore it, or build the index anew") from error
    whole, parts, offsets = items
    if (
        (whole.dtype, parts.dtype, offsets.dtype) != (torch.float32, getattr(torch, manifest.dtype), torch.int64)
        or (whole.shape, offsets.shape) != ((count, manifest.width), (count + 1,))
        or parts.shape != (int(offsets[-1]), manifest.width)
        or int(offsets[0]) != 0
        or not (offsets.diff() > 0).all()
    ):
        raise ValueError(
            f"{path} holds {parts.dtype} parts of the shape {tuple(parts.shape)} for {whole.shape[0]} items; expected "
            f"{manifest.dtype}, {manifest.width} wide, for {count}, as its manifest says: build the index anew"
        )
    return items


def _described(row: Row) -> dict[str, str | int | None]:
    return {
        "line": row.line,
        "image": None if row.image is None else str(row.image.absolute()),
        "report": row.report,
        "patient": row.patient,
        "label": row.label,
    }
