"""Unpacks images that a Parquet table holds in its cells, as hubs write them, into files beside it."""

import io
import json
import re
from pathlib import Path
from typing import Any

from PIL import Image

from gloria.dicom import is_dicom
from gloria.durable import DiskFullError, write_json, write_whole

ROWS_AT_ONCE = 16  # in memory, with their images
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,8}")


def holds_files(kind: Any) -> bool:
    """Return whether a column of this pyarrow type holds files: bytes, or a struct with the fields bytes and path."""
    from pyarrow import types

    if types.is_struct(kind):
        return "bytes" in [kind.field(number).name for number in range(kind.num_fields)]
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def unpack(table: Path, column: str) -> list[str]:
    """Write the files of a column into the folder TABLE.files beside the table, once for each version of the table.

    Training reads rows in random order, and would read the Parquet file through for each of them. The folder may be
    deleted while nothing reads it. Several processes may unpack at once: each file gets its name when it is complete.

    Args:
        table: Parquet.
        column: bytes, or a struct of bytes and path.

    Returns:
        The file of each row, relative to the table's folder; without bytes the path in the table, without both "".

    Raises:
        OSError: the folder cannot be written.
    """
    import pyarrow.parquet

    folder = table.with_name(f"{table.name}.files")
    listing = folder / f"{column}.json"
    state = table.stat()
    version = [state.st_size, state.st_mtime_ns]
    try:
        kept = json.loads(listing.read_text(encoding="utf-8"))
        if kept["version"] == version:
            return list(kept["files"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not unpacked yet, or not completely
    files: list[str] = []
    try:
        folder.mkdir(exist_ok=True)
        for batch in pyarrow.parquet.ParquetFile(table).iter_batches(ROWS_AT_ONCE, columns=[column]):
            for value in batch.column(column).to_pylist():
                data, name = (value, None) if isinstance(value, (bytes, type(None))) else _bytes_and_name(value)
                if data:
                    file = folder / f"{column}-{len(files) + 1:09d}{_suffix(data, name)}"
                    _write(file, data)
                    name = f"{folder.name}/{file.name}"
                files.append(name or "")
        write_json(listing, {"version": version, "files": files})
    except DiskFullError as error:
        raise DiskFullError(
            f"{error}; images in {table} are unpacked beside it: copy it to a folder with room"
        ) from error
    except OSError as error:
        if error.filename is None:
            raise  # of Parquet
        raise OSError(
            error.errno,
            f"{error.strerror}: images in {table} are unpacked beside it; copy it to a folder that has room",
            str(error.filename),
        ) from error
    return files


def _bytes_and_name(value: dict[str, Any]) -> tuple[bytes | None, str | None]:
    return value["bytes"], value.get("path")


def _suffix(data: bytes, name: str | None) -> str:
    """Return the suffix of the file's name in the table, else the suffix of its format, "" if unknown."""
    if name and _SUFFIX.fullmatch(suffix := Path(name).suffix):
        return suffix
    if is_dicom(io.BytesIO(data)):
        return ".dcm"
    try:
        with Image.open(io.BytesIO(data)) as image:
            return f".{str(image.format).lower()}"
    except Exception:  # not an image, which the reader of the file reports
        return ""


def _write(path: Path, data: bytes) -> None:
    write_whole(path, lambda partial: partial.write_bytes(data), flushed=False)
