"""Stores the shards of an index: IndexWriter appends each completely or not at all; EmbeddingIndex maps them."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gloria.data import Problem, Row
from gloria.embeddings import Embeddings
from gloria.index.manifest import File, Manifest

# Large enough that the work for each shard is negligible, small enough to be in memory.
SHARD_BYTES = 2**28


class IndexWriter:
    """Appends items to an index, a shard at a time; a killed process leaves the earlier shards.

    Args:
        folder: folder of the index; created if it is missing.
        manifest: manifest of the index so far, which may be empty.
        shard_bytes: size at which a shard is full.
    """

    def __init__(self, folder: str | Path, manifest: Manifest, shard_bytes: int = SHARD_BYTES) -> None:
        if shard_bytes < 1:
            raise ValueError(f"shard_bytes is {shard_bytes}; expected at least 1, such as {SHARD_BYTES}")
        self.folder, self.manifest, self.shard_bytes = Path(folder), manifest, shard_bytes
        self.folder.mkdir(parents=True, exist_ok=True)
        self._pending: list[Embeddings] = []
        self._rows: list[Row] = []

    def add(self, items: Embeddings, rows: Sequence[Row]) -> None:
        """Add items, and their rows, to the next shard.

        Raises:
            ValueError: another width; an embedding that is not finite in the dtype of the index: the message names the
                row of the first.
        """
        count, width = items.item_embeds.shape
        if width != self.manifest.width or len(rows) != count:
            raise ValueError(
                f"there are {count} items, {width} wide, of {len(rows)} rows; expected a row of each, and the width "
                f"of the index, {self.manifest.width}"
            )
        part_embeds = items.part_embeds.to(getattr(torch, self.manifest.dtype)).cpu()
        item_embeds, offsets = items.item_embeds.float().cpu(), items.offsets.cpu()
        item = torch.repeat_interleave(torch.arange(count), offsets.diff())
        bad = item[~part_embeds.isfinite().all(1)].tolist() + (~item_embeds.isfinite().all(1)).nonzero()[:, 0].tolist()
        if bad:
            raise ValueError(
                f"{rows[min(bad)].where}: its vectors are NaN or infinite in {self.manifest.dtype}; take float32 "
                "or bfloat16, which have a wider range, or fix the model"
            )
        self._pending.append(Embeddings(item_embeds, part_embeds, offsets))
        self._rows += rows

    @property
    def is_full(self) -> bool:
        """Whether the next shard is full."""
        return sum(each.part_embeds.nbytes + each.item_embeds.nbytes for each in self._pending) >= self.shard_bytes

    def write(self, done: int, digest: str, bad: Sequence[Problem] = ()) -> None:
        """Write the next shard, then the manifest, which makes the shard count.

        Args:
            done: number of the table's rows that are then in the index, or bad.
            digest: hash of those rows.
            bad: problems of the bad rows since the last call.
        """
        shards = self.manifest.shards
        if self._pending:
            name = f"shard-{len(shards):05d}.safetensors"
            shards = (*shards, File.written(self.folder, name, len(self._rows), self._save_shard))
        # The FAISS index lacks the new items, which a search in two stages would never find.
        nearest, factory = (None, "") if self._pending else (self.manifest.nearest, self.manifest.factory)
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
        self._pending, self._rows = [], []

    def _save_shard(self, path: Path) -> None:
        rows = json.dumps([_row_as_json(row) for row in self._rows]).encode()
        tensors = Embeddings.concatenate(self._pending)._asdict()
        save_file(tensors | {"rows": torch.frombuffer(bytearray(rows), dtype=torch.uint8)}, path)


class EmbeddingIndex:
    """Opens a complete index, memory-mapped: items are read when they are scored.

    Attributes:
        folder: folder of the index.
        manifest: its manifest.

    Args:
        folder: folder that `gloria index build` wrote.
        verify: compare the hash of every file, which reads the index once. False checks only sizes and layouts.

    Raises:
        ValueError: no index, an unfinished index, another version; a file that is missing, cut off or changed.
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
        self.shards = [_open_shard(self.folder / file.name, file.items, self.manifest) for file in self.manifest.shards]
        counts = torch.tensor([file.items for file in self.manifest.shards])
        self._firsts = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
        self.nearest: Any = None  # the FAISS index, once it has been read
        self._rows_of = lru_cache(maxsize=8)(self._read_rows)

    def __len__(self) -> int:
        return int(self._firsts[-1])

    @property
    def firsts(self) -> list[int]:
        """Numbers of the first item of each shard."""
        return self._firsts[:-1].tolist()

    def by_shard(self, numbers: Tensor) -> Iterator[tuple[Embeddings, Tensor]]:
        """Yield the shards that hold the items with the given numbers, (n,) int64, rising, and their numbers in it."""
        shard_of = torch.searchsorted(self._firsts, numbers, right=True) - 1
        for shard in shard_of.unique().tolist():
            yield self.shards[shard], numbers[shard_of == shard] - self._firsts[shard]

    def rows(self, numbers: Sequence[int]) -> list[Row]:
        """Return the rows of items: line, image, report, patient and label."""
        shard_of = (torch.searchsorted(self._firsts, torch.tensor(numbers, dtype=torch.int64), right=True) - 1).tolist()
        firsts = self.firsts
        return [self._rows_of(shard)[number - firsts[shard]] for number, shard in zip(numbers, shard_of, strict=True)]

    def _read_rows(self, shard: int) -> list[Row]:
        with safe_open(self.folder / self.manifest.shards[shard].name, "pt") as file:
            saved = json.loads(file.get_tensor("rows").numpy().tobytes())
        return [Row(**each | {"image": Path(each["image"]) if each["image"] else None}) for each in saved]


def _open_shard(path: Path, count: int, manifest: Manifest) -> Embeddings:
    try:
        with safe_open(path, "pt") as file:
            items = Embeddings(*(file.get_tensor(name) for name in Embeddings._fields))
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); restore it, or build the index again") from error
    offsets = items.offsets
    expected = [
        (torch.float32, (count, manifest.width)),
        (getattr(torch, manifest.dtype), (int(offsets[-1]), manifest.width)),
        (torch.int64, (count + 1,)),
    ]
    if [(each.dtype, tuple(each.shape)) for each in items] != expected or offsets[0] != 0 or (items.lengths < 1).any():
        raise ValueError(
            f"{path} holds {items.part_embeds.dtype} parts of the shape {tuple(items.part_embeds.shape)} for "
            f"{len(items.item_embeds)} items; expected {manifest.dtype}, {manifest.width} wide, for {count}, as its "
            "manifest says: build the index again"
        )
    return items


def _row_as_json(row: Row) -> dict[str, str | int | None]:
    return {
        "line": row.line,
        "image": None if row.image is None else str(row.image.absolute()),
        "report": row.report,
        "patient": row.patient,
        "label": row.label,
    }
