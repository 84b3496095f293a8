"""Manifest: says what an index holds, what made it, and the size and hash of each file."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_args

from gloria.data import Problem
from gloria.durable import StoredFile, size_and_hash, write_json, write_whole
from gloria_ops import ItemKind

DTYPES = ("float16", "bfloat16", "float32")
MANIFEST = "manifest.json"
VERSION = 2


@dataclass(frozen=True)
class File(StoredFile):
    """Describes a file of the index as it was written.

    Attributes:
        items: number of images or texts in it.
    """

    items: int

    @classmethod
    def written(cls, folder: Path, name: str, items: int, write: Callable[[Path], None]) -> "File":
        """Let `write` write the file, see `gloria.durable.write_whole`."""
        write_whole(folder / name, write)
        return cls(name, *size_and_hash(folder / name), items)

    def check(self, folder: Path, verify: bool) -> None:
        """Raise ValueError if the file is missing, has another size, or (with `verify`) other bytes."""
        if fault := self.fault(folder, MANIFEST, verify):
            raise ValueError(f"{fault}; restore it, or build the index again")


@dataclass(frozen=True)
class Manifest:
    """Describes an index and its files.

    Attributes:
        of: kind of the items.
        width: D.
        dtype: dtype of regions and words, a name in torch.
        model: `model_fingerprint` of the model that encoded the items.
        preprocessing: `preprocessing_fingerprint` of its processor.
        rows: number of the table's rows, good or bad.
        done: number of rows that are in the shards or bad; below `rows` while the index is being built.
        digest: hash of those `done` rows, by which a continued build recognizes its table.
        bad: problems of the rows that are not in the index.
        shards: files, in the order of their items.
        nearest: the FAISS index of the item embeddings, if there is one.
        factory: FAISS's name of its kind.
        version: version of the format.
    """

    of: ItemKind
    width: int
    dtype: str
    model: str
    preprocessing: str
    rows: int = 0
    done: int = 0
    digest: str = ""
    bad: tuple[Problem, ...] = ()
    shards: tuple[File, ...] = ()
    nearest: File | None = None
    factory: str = ""
    version: int = VERSION

    def __post_init__(self) -> None:
        if self.of not in get_args(ItemKind):
            raise ValueError(f"of is {self.of!r}; expected 'images' or 'texts', what the index holds")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype is {self.dtype!r}; expected one of {', '.join(map(repr, DTYPES))}")

    def write(self, folder: Path) -> None:
        """Replace the manifest in `folder`, in one step."""
        write_json(folder / MANIFEST, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Read the manifest of an index.

        Raises:
            ValueError: a manifest that is missing, damaged, or of another version.
        """
        path = folder / MANIFEST
        if not path.is_file():
            raise ValueError(f"{folder} holds no index (no {MANIFEST}); expected what `gloria index build` wrote")
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
            version = saved["version"]
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path} is damaged ({error}); restore it, or build the index again") from error
        if version != VERSION:
            raise ValueError(
                f"{path} has the format version {version}, and this program reads {VERSION}; build the index again, or "
                "use the program that wrote it"
            )
        try:
            return cls(**saved | _parse_nested(saved))
        except (TypeError, ValueError, KeyError) as error:
            raise ValueError(f"{path} is damaged ({error}); restore it, or build the index again") from error

    def check_maker(self, model: str, preprocessing: str) -> None:
        """Raise ValueError if another model or preprocessing made the index: scores would be noise."""
        for what, mine, given in (("model", self.model, model), ("preprocessing", self.preprocessing, preprocessing)):
            if mine != given:
                raise ValueError(
                    f"the index was made with another {what} (hash {mine[:12]}, not {given[:12]}); take the run that "
                    "made it, or build an index with this one"
                )


def _parse_nested(saved: dict[str, Any]) -> dict[str, Any]:
    missing = {field.name for field in fields(Manifest)} - set(saved)
    if missing:
        raise ValueError(f"without {', '.join(sorted(missing))}")
    return {
        "bad": tuple(Problem(**each) for each in saved["bad"]),
        "shards": tuple(File(**each) for each in saved["shards"]),
        "nearest": saved["nearest"] and File(**saved["nearest"]),
    }
