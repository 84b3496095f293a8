"""Encodes the rows of a table into an index; an interrupted build continues, and so does one whose table has grown."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from gloria.data import Problem, Row
from gloria.encoding import batches, encode_texts, inference
from gloria.fingerprint import model_fingerprint, preprocessing_fingerprint
from gloria.images import to_rgb
from gloria.index.manifest import MANIFEST, Manifest
from gloria.index.store import SHARD_BYTES, EmbeddingIndex, IndexWriter, Items
from gloria.modelling import GloriaModel
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
    """Encodes images or texts and appends them to an index, shard by shard.

    A build that was interrupted, or killed, continues behind the last shard that was finished when it is called again;
    so does one of a table to which rows were added at the end. Bad rows are left out and named in `manifest.bad`.

    Args:
        folder: of the index, new or to be continued.
        model: in evaluation mode while this runs, then as before.
        processor: of the same run.
        rows: as `read_table` gives them, bad ones included.
        of: "images": the rows' images, to be found by texts; "texts": their reports, to be found by images.
        dtype: in which regions and words are kept: "float16", "bfloat16" or "float32".
        batch_size: rows that are encoded at once.
        shard_bytes: of a file of the index, more or less; so much is held in memory meanwhile.
        progress: show a bar, on a terminal.

    Raises:
        ValueError: no row, or none that is good; an index in `folder` of another model, preprocessing, kind, dtype or
        table; vectors that are not finite; `batch_size` or `shard_bytes` below 1.
    """
    if not len(rows) or batch_size < 1:
        raise ValueError(f"there are {len(rows)} rows and a batch_size of {batch_size}; expected 1 of each at least")
    made_by = model_fingerprint(model), preprocessing_fingerprint(processor)
    manifest = Manifest(of, model.config.projection_dim, dtype, *made_by)
    if (Path(folder) / MANIFEST).is_file():
        manifest = _continued(Path(folder), manifest, rows)
    writer = IndexWriter(folder, replace(manifest, rows=len(rows)), shard_bytes)
    digest = hashlib.sha256()
    _digest(digest, rows[: manifest.done])
    bad: list[Problem] = []
    done = manifest.done
    with inference(model):
        for batch in batches(rows[done:], batch_size, of, progress):
            encoded, good, faults = _encoded(model, processor, batch, of)
            if encoded is not None:
                writer.add(encoded, good)
            bad += faults
            done += len(batch)
            _digest(digest, batch)
            if writer.is_full:
                writer.write(done, digest.hexdigest(), bad)
                bad = []
    writer.write(done, digest.hexdigest(), bad)
    return EmbeddingIndex(folder, verify=False)


def _continued(folder: Path, new: Manifest, rows: Sequence[Row]) -> Manifest:
    """The manifest of the index in `folder`, if a build of `new` over these rows would continue it."""
    earlier = Manifest.read(folder)
    earlier.check_maker(new.model, new.preprocessing)
    for name in ("of", "dtype"):
        if getattr(earlier, name) != getattr(new, name):
            raise ValueError(
                f"{folder} holds an index with {name} {getattr(earlier, name)!r}, not {getattr(new, name)!r}; name "
                "another folder"
            )
    digest = hashlib.sha256()
    _digest(digest, rows[: earlier.done])
    if earlier.done and (earlier.done > len(rows) or digest.hexdigest() != earlier.digest):
        raise ValueError(
            f"{folder} holds an index of another table: its first {earlier.done} rows are not those of this one; name "
            "another folder"
        )
    for file in earlier.shards:
        file.check(folder, verify=False)
    return earlier


def _digest(digest: "hashlib._Hash", rows: Sequence[Row]) -> None:
    for row in rows:
        image = None if row.image is None else str(row.image.absolute())
        digest.update(repr((row.line, image, row.report, row.patient, row.label, row.fault)).encode())


def _encoded(
    model: GloriaModel, processor: GloriaProcessor, batch: Sequence[Row], of: ItemKind
) -> tuple[Items | None, list[Row], list[Problem]]:
    """What the good rows of a batch become (None = there is none), those rows, and what is wrong with the others."""
    good: list[Row] = []
    bad: list[Problem] = []
    pixels: list[Tensor] = []
    for row in batch:
        fault = row.fault
        if not fault and of == "texts" and not row.report:
            fault = "the report is empty"
        if not fault and of == "images":
            try:
                pixels.append(_pixels(processor, row))
            except (ValueError, OSError) as error:
                fault = str(error)
        if fault:
            bad.append(Problem(row.line, fault, row.unit))
        else:
            good.append(row)
    if not good:
        return None, good, bad
    if of == "texts":
        texts = encode_texts(model, processor, [row.report for row in good], len(good))
        return Items(texts.whole, texts.words, texts.offsets), good, bad
    whole, regions = model.get_image_features(torch.cat(pixels).to(model.device))
    return items_of_images(whole, regions), good, bad


def _pixels(processor: GloriaProcessor, row: Row) -> Tensor:
    if row.image is None:
        raise ValueError("the image is not named")
    pixels: Tensor = processor(images=to_rgb(row.image))["pixel_values"]
    return pixels


def items_of_images(whole: Tensor, regions: Tensor) -> Items:
    """Vectors (B, D) and feature maps (B, D, H, W) as items, their regions packed in reading order."""
    parts = regions.flatten(2).transpose(1, 2)
    offsets = parts.shape[1] * torch.arange(parts.shape[0] + 1, device=parts.device)
    return Items(whole, parts.flatten(0, 1), offsets)
