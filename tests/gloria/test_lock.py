"""One writer a folder: a second is refused with the first's pid, and nobody is kept out by a dead one."""

import errno
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gloria import lock
from gloria.lock import LOCK, only_writer

HOLD = "import sys; from gloria.lock import only_writer\nwith only_writer(sys.argv[1]): print('held', flush=True); input()"


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the folder, until its input ends or it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.communicate()


def test_the_second_is_refused_with_the_firsts_pid(tmp_path, holder):
    refusal = f"{re.escape(str(tmp_path))} is being written by process {holder.pid} on .+; wait until it ends, or name"
    with pytest.raises(ValueError, match=refusal), only_writer(tmp_path):
        pass
    holder.communicate(b"\n")
    with only_writer(tmp_path):
        pass


def test_a_killed_process_keeps_nobody_out(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / LOCK).exists()
    with only_writer(tmp_path):
        assert (tmp_path / LOCK).read_text().startswith(f"{os.getpid()} on ")


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


def test_a_forked_process_does_not_keep_the_lock(tmp_path):
    """As a worker of a data loader, that outlives the process that has forked it."""
    context = multiprocessing.get_context("fork")
    end = context.Event()
    with only_writer(tmp_path):
        worker = context.Process(target=end.wait)
        worker.start()
    try:
        with only_writer(tmp_path):
            pass
    finally:
        end.set()
        worker.join()


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
    with pytest.warns(UserWarning, match="cannot be locked .* let no other process write into it"):
        with only_writer(tmp_path):
            pass
