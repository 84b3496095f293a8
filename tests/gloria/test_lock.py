"""One writer a folder: a second is refused with the first's pid, and nobody is kept out by a dead one."""

import errno
import os
import re
import signal
import threading

import pytest

from gloria import lock
from gloria.lock import LOCK, only_writer


class Holder:
    """A process that holds a folder until it is told to end; with a worker, which it has forked, if asked for."""

    def __init__(self, folder, with_worker):
        told, self.tell = os.pipe()
        reader, answer = os.pipe()
        self.pid, self.worker = os.fork(), 0
        if self.pid == 0:
            with only_writer(folder):
                worker = os.fork() if with_worker else 1
                if worker:
                    os.write(answer, f"{worker}\n".encode())
                os.read(told, 1)
            os._exit(0)
        os.close(answer)
        os.close(told)
        with os.fdopen(reader) as pipe:
            self.worker = int(pipe.readline())

    def end(self):
        os.write(self.tell, b".")
        os.waitpid(self.pid, 0)

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def test_the_second_is_refused_with_the_firsts_pid(tmp_path):
    holder = Holder(tmp_path, with_worker=False)
    refusal = f"{re.escape(str(tmp_path))} is being written by process {holder.pid} on .+; wait until it ends, or name"
    try:
        with pytest.raises(ValueError, match=refusal), only_writer(tmp_path):
            pass
    finally:
        holder.end()
    with only_writer(tmp_path):
        pass


def test_a_killed_process_keeps_nobody_out(tmp_path):
    Holder(tmp_path, with_worker=False).kill()
    assert (tmp_path / LOCK).exists()
    with only_writer(tmp_path):
        assert (tmp_path / LOCK).read_text().startswith(f"{os.getpid()} on ")


def test_nor_does_what_it_has_forked(tmp_path):
    """As a worker of a data loader, that outlives the process."""
    holder = Holder(tmp_path, with_worker=True)
    holder.kill()
    os.kill(holder.worker, 0)  # it lives
    try:
        with only_writer(tmp_path):
            pass
    finally:
        os.kill(holder.worker, signal.SIGKILL)


def in_another_thread(folder):
    """What becomes of another thread that wants the folder."""
    refused = []

    def ask():
        try:
            with only_writer(folder):
                pass
        except ValueError as error:
            refused.append(str(error))

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    return refused


def test_the_same_thread_may_ask_again_and_another_may_not(tmp_path):
    with only_writer(tmp_path):
        with only_writer(str(tmp_path)):
            pass
        assert len(in_another_thread(tmp_path)) == 1
    assert in_another_thread(tmp_path) == []


def test_nothing_is_left_behind(tmp_path):
    with pytest.raises(KeyError), only_writer(tmp_path / "new"):
        raise KeyError
    assert not (tmp_path / "new").exists()
    with only_writer(tmp_path / "new"):
        (tmp_path / "new" / "file").touch()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file"]


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(lock.fcntl, "flock", refuse)
    expected = pytest.warns(UserWarning, match="cannot be locked .* let no other process write into it")
    with expected, only_writer(tmp_path):
        pass
