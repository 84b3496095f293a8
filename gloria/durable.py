"""Writes files completely or not at all, and checks them later by size and SHA-256."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PARTIAL = ".partial"
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_PROBE_BYTES = 2**20


class DiskFullError(OSError):
    """A file or folder could not be written because no space or quota is left; its incomplete part is removed."""


@dataclass(frozen=True)
class StoredFile:
    """Describes a file of a folder as it was written.

    Attributes:
        name: name in the folder.
        size: size in bytes.
        sha256: SHA-256 of its bytes.
    """

    name: str
    size: int
    sha256: str

    def fault(self, folder: Path, manifest: str, verify: bool) -> str:
        """Say what is wrong with the file, "" = nothing.

        Args:
            folder: folder of the file.
            manifest: name of the file that lists it, for the message.
            verify: compare the hash too, which reads the file.
        """
        path = folder / self.name
        try:
            if not path.is_file():
                return f"{path} is missing, which {manifest} lists"
            size = path.stat().st_size
            if size != self.size:
                return f"{path} has {size} bytes; expected {self.size}: it was cut off or changed"
            if verify and size_and_hash(path) != (self.size, self.sha256):
                return f"{path} is not what was written: its SHA-256 differs from that in {manifest}"
        except OSError as error:  # another process may be removing it
            return f"{path} cannot be read ({error})"
        return ""


def size_and_hash(path: Path) -> tuple[int, str]:
    """Return the size of a file in bytes, and its SHA-256."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
            size += len(block)
    return size, digest.hexdigest()


def flush(path: Path) -> None:
    """Wait until a file, or the list of a folder's files, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, write: Callable[[Path], Any], flushed: bool = True) -> None:
    """Let `write` write another file, which gets the name `path` when it is complete.

    Several processes may write the same file: each writes its own, and the last one stays.

    Args:
        path: name of the file.
        write: writes the file whose path it is given.
        flushed: wait until the file is on the disk; False for a file that can be made again.

    Raises:
        DiskFullError: no space is left. After any error, an earlier file of that name is unchanged.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL}")
    with whole_or_gone(partial, path):
        write(partial)
        if flushed:
            flush(partial)
        partial.replace(path)
        if flushed:
            flush(path.parent)


def write_json(path: Path, content: Any, indent: int = 1) -> None:
    """Write JSON, see `write_whole`."""
    text = json.dumps(content, indent=indent) + "\n"
    write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))


@contextmanager
def whole_files(folder: Path) -> Iterator[Path]:
    """Give a folder to write files to, which move into `folder` when all of them are on the disk.

    Raises:
        DiskFullError: no space is left. After any error, `folder` is unchanged.
    """
    staged = folder / f"files{PARTIAL}"
    _remove(staged)
    staged.mkdir(parents=True)
    with whole_or_gone(staged, folder):
        yield staged
        written = sorted(staged.iterdir())
        for path in written:
            flush(path)
        for path in written:
            path.replace(folder / path.name)
        flush(folder)
        staged.rmdir()


@contextmanager
def whole_or_gone(path: Path, final: Path | None = None) -> Iterator[None]:
    """Remove the file or folder being written if writing fails, and name a full disk as the reason.

    Args:
        path: the file or folder being written.
        final: its final name, for the message. Default: `path`.

    Raises:
        DiskFullError: writing failed because no space is left.
    """
    try:
        yield
    except BaseException as error:
        full = isinstance(error, Exception) and _is_full(error, path.parent)
        _remove(path)
        if full:
            raise DiskFullError(f"{final or path} could not be written: no space is left on the disk") from error
        raise


def _is_full(error: Exception, folder: Path) -> bool:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno is not None:
            return cause.errno in _DISK_FULL
        cause = cause.__cause__ or cause.__context__
    # Writers in Rust and C++ raise their own errors, without errno: some quote the system's message; for others, only
    # the file system can tell.
    if any(os.strerror(number) in str(error) for number in _DISK_FULL):
        return True
    probe = folder / f"probe-{os.getpid()}{PARTIAL}"
    try:
        with probe.open("wb") as file:
            file.write(bytes(_PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as refused:
        return refused.errno in _DISK_FULL
    finally:
        probe.unlink(missing_ok=True)
    return False


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)
