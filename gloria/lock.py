"""Locks a folder for one writer; the lock ends with its process, however the process ends."""

import errno
import fcntl
import os
import socket
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOCK = ".lock"
# File systems that have no locks answer with one of these.
_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class _HeldFolders(threading.local):
    """Lists the folders whose lock this thread holds."""

    def __init__(self) -> None:
        self.folders: set[Path] = set()


_held = _HeldFolders()
_descriptors: set[int] = set()


def _release_in_child() -> None:
    # A forked process, such as a data loader's worker, would keep the lock after its parent has ended.
    for descriptor in _descriptors:
        with suppress(OSError):
            os.close(descriptor)
    _descriptors.clear()
    _held.folders.clear()


os.register_at_fork(after_in_child=_release_in_child)


@contextmanager
def only_writer(folder: str | Path) -> Iterator[None]:
    """Hold the lock of a folder; create the folder if it is missing, and remove it again if it stays empty.

    The thread that holds the lock may ask for the same folder again. The operating system locks the file .lock in the
    folder (flock), so a killed process leaves no lock behind. On a file system without locks, a warning says so once.

    Raises:
        ValueError: another process or thread writes into the folder; the message has its process id.
    """
    folder = Path(folder).resolve()
    if folder in _held.folders:
        yield
        return
    created = not folder.exists()
    descriptor = _lock(folder)
    _held.folders.add(folder)
    _descriptors.add(descriptor)
    try:
        yield
    finally:
        _held.folders.discard(folder)
        (folder / LOCK).unlink(missing_ok=True)
        _descriptors.discard(descriptor)
        os.close(descriptor)
        if created:
            with suppress(OSError):  # it is not empty
                folder.rmdir()


def _lock(folder: Path) -> int:
    path = folder / LOCK
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:  # the process that created the folder has removed it
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "that has just begun"
            os.close(descriptor)
            raise ValueError(
                f"{folder} is being written by process {holder}; wait until it ends, or name another folder"
            ) from None
        except OSError as error:
            if error.errno not in _WITHOUT_LOCKS:
                os.close(descriptor)
                raise
            warnings.warn(f"{folder} cannot be locked ({error}): let no other process write into it", stacklevel=4)
        # The last holder removes the file before it releases the lock: a lock on a removed file protects nothing.
        try:
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                break
        except FileNotFoundError:
            pass
        os.close(descriptor)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    return descriptor
