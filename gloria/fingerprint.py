"""Hashes what determines an embedding or a run: the model, the preprocessing of images and texts, and the rows."""

import hashlib
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig

from gloria.data import Row, ShardDataset
from gloria.modeling import GloriaModel
from gloria.processing import GloriaProcessor

# Bookkeeping of transformers, which changes no embedding.
_VOLATILE = ("transformers_version", "_name_or_path", "dtype", "architectures", "processor_class")


def model_fingerprint(model: GloriaModel) -> str:
    """Return the SHA-256 of the configuration and of every weight with its name, dtype and shape, on any device.

    It changes when a release of transformers adds a setting to an encoder: nothing tells whether the setting matters.
    """
    digest = hashlib.sha256(_canonical_json(model.config.to_dict()))
    for name, weight in sorted(model.state_dict().items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def preprocessing_fingerprint(processor: GloriaProcessor) -> str:
    """Return the SHA-256 of the image processor, the tokenizer, and the length that reports are cut to."""
    tokenizer = json.loads(processor.tokenizer.backend_tokenizer.to_str())
    for state in ("padding", "truncation"):  # of the last call
        tokenizer.pop(state, None)
    settings = {
        "images": processor.image_processor.to_dict(),
        "tokenizer": tokenizer,
        "max_length": processor.max_length,
    }
    return hashlib.sha256(_canonical_json(settings)).hexdigest()


def config_fingerprint(config: PreTrainedConfig) -> str:
    """Return the SHA-256 of the configuration of a model."""
    return hashlib.sha256(_canonical_json(config.to_dict())).hexdigest()


def rows_fingerprint(rows: Sequence[Row] | ShardDataset) -> str:
    """Return the SHA-256 of rows (see `add_rows`), or of what shards hold besides the images.

    It reads no images: it hashes their paths, or their names and sizes in the shards.
    """
    digest = hashlib.sha256()
    if isinstance(rows, ShardDataset):
        for name in sorted(rows.counts):
            _add_shard(digest, rows.folder / name)
    else:
        add_rows(digest, rows)
    return digest.hexdigest()


def _add_shard(digest: "hashlib._Hash", path: Path) -> None:
    digest.update(path.name.encode())
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                digest.update(f"{member.name} {member.size}".encode())
                if member.name.endswith(".json") and (file := tar.extractfile(member)):
                    digest.update(file.read())
    except (tarfile.TarError, OSError, EOFError) as error:  # training reports it, and goes on if it may
        digest.update(type(error).__name__.encode())


def add_rows(digest: "hashlib._Hash", rows: Sequence[Row]) -> None:
    """Add rows to a hash: their lines, absolute paths of images, reports, patients, labels and faults."""
    for row in rows:
        image = None if row.image is None else str(row.image.absolute())
        digest.update(repr((row.line, image, row.report, row.patient, row.label, row.fault)).encode())


def _canonical_json(settings: Any) -> bytes:
    return json.dumps(_without_volatile(settings), sort_keys=True, default=str).encode()


def _without_volatile(settings: Any) -> Any:
    if isinstance(settings, dict):
        return {str(name): _without_volatile(value) for name, value in settings.items() if name not in _VOLATILE}
    return settings
