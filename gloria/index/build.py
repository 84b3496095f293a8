"""Encodes the rows of a table into an index; a build continues after an interruption, or when its table has grown."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from gloria.data import Problem, Row
from gloria.embeddings import Embeddings
from gloria.encoding import batches, encode_pixels, encode_texts, inference
from gloria.fingerprint import add_rows, model_fingerprint, preprocessing_fingerprint
from gloria.images import to_rgb
from gloria.index.manifest import MANIFEST, Manifest
from gloria.index.store import SHARD_BYTES, EmbeddingIndex, IndexWriter
from gloria.lock import only_writer
from gloria.modeling import GloriaModel
from gloria.processing import GloriaProcessor
from gloria_ops import ItemKind


def build_index(
    folder: str | Path,
    model: GloriaModel,
    processor: GloriaProcessor,
    rows: Sequence[Row],
    of: ItemKind,
    *,
    dtype: str = "float16",
    batch_size: int = 32,
    shard_bytes: int = SHARD_BYTES,
    progress: bool = False,
) -> EmbeddingIndex:
    """Encode images or texts and append them to an index, shard by shard.

    Called again, it continues an interrupted or killed build after the last finished shard, and a build whose table got
    more rows at its end. Bad rows are left out and named in `manifest.bad`.

    Args:
        folder: folder of the index, new or to be continued.
        model: put into evaluation mode while this runs.
        processor: processor of the same run.
        rows: rows of `read_table`, bad ones included.
        of: "images" indexes the rows' images, for queries of text; "texts" their reports, for queries of images.
        dtype: dtype of stored regions and words: "float16", "bfloat16" or "float32".
        batch_size: rows encoded at once.
        shard_bytes: approximate size of a file of the index, and of what is in memory.
        progress: show a progress bar, on a terminal.

    Raises:
        ValueError: no row or no good row; an index in `folder` of another model, preprocessing, kind, dtype or table;
            another process that writes into it; embeddings that are not finite; `batch_size` or `shard_bytes` below 1.
        DiskFullError: no space is left; the earlier shards are complete, and the build continues when there is room.
    """
    if not len(rows) or batch_size < 1:
        raise ValueError(f"there are {len(rows)} rows and a batch_size of {batch_size}; expected at least 1 of each")
    made_by = model_fingerprint(model), preprocessing_fingerprint(processor)
    manifest = Manifest(of, model.config.projection_dim, dtype, *made_by)
    with only_writer(folder):
        if (Path(folder) / MANIFEST).is_file():
            manifest = _manifest_to_continue(Path(folder), manifest, rows)
        writer = IndexWriter(folder, replace(manifest, rows=len(rows)), shard_bytes)
        with inference(model):
            _encode_into(writer, model, processor, rows, batch_size, progress)
    return EmbeddingIndex(folder, verify=False)


def _encode_into(
    writer: IndexWriter,
    model: GloriaModel,
    processor: GloriaProcessor,
    rows: Sequence[Row],
    batch_size: int,
    progress: bool,
) -> None:
    """Encode the rows that are not in the index yet."""
    of, done = writer.manifest.of, writer.manifest.done
    digest = hashlib.sha256()
    add_rows(digest, rows[:done])
    bad: list[Problem] = []
    for batch in batches(rows[done:], batch_size, of, progress):
        encoded, good, faults = _encode_rows(model, processor, batch, of)
        if encoded is not None:
            writer.add(encoded, good)
        bad += faults
        done += len(batch)
        add_rows(digest, batch)
        if writer.is_full:
            writer.write(done, digest.hexdigest(), bad)
            bad = []
    writer.write(done, digest.hexdigest(), bad)


def _manifest_to_continue(folder: Path, new: Manifest, rows: Sequence[Row]) -> Manifest:
    """Return the manifest of the index in `folder` if a build of `new` over these rows can continue it."""
    earlier = Manifest.read(folder)
    earlier.check_maker(new.model, new.preprocessing)
    for name in ("of", "dtype"):
        if getattr(earlier, name) != getattr(new, name):
            raise ValueError(
                f"{folder} holds an index with {name} {getattr(earlier, name)!r}, not {getattr(new, name)!r}; name "
                "another folder"
            )
    digest = hashlib.sha256()
    add_rows(digest, rows[: earlier.done])
    if earlier.done and (earlier.done > len(rows) or digest.hexdigest() != earlier.digest):
        raise ValueError(
            f"{folder} holds an index of another table: its first {earlier.done} rows are not those of this one; name "
            "another folder"
        )
    for file in earlier.shards:
        file.check(folder, verify=False)
    return earlier


def _encode_rows(
    model: GloriaModel, processor: GloriaProcessor, batch: Sequence[Row], of: ItemKind
) -> tuple[Embeddings | None, list[Row], list[Problem]]:
    """Return the embeddings of the good rows of a batch (None if there are none), these rows, and others' problems."""
    good: list[Row] = []
    bad: list[Problem] = []
    pixels: list[Tensor] = []
    for row in batch:
        fault = row.fault
        if not fault and of == "texts" and not row.report:
            fault = "the report is empty"
        if not fault and of == "images":
            try:
                pixels.append(_row_pixels(processor, row))
            except (ValueError, OSError) as error:
                fault = str(error)
        if fault:
            bad.append(Problem(row.line, fault, row.unit))
        else:
            good.append(row)
    if not good:
        return None, good, bad
    if of == "texts":
        return encode_texts(model, processor, [row.report for row in good], len(good)), good, bad
    return encode_pixels(model, torch.cat(pixels)), good, bad


def _row_pixels(processor: GloriaProcessor, row: Row) -> Tensor:
    if row.image is None:
        raise ValueError("the image is not named")
    pixels: Tensor = processor(images=to_rgb(row.image))["pixel_values"]
    return pixels
