"""Files that are whole or not there: a failure leaves what was there before, and a full disk is named."""

import errno
import json
import os

import pytest

from gloria import durable
from gloria.durable import DiskFullError, StoredFile, size_and_hash, whole_files, whole_or_gone, write_json, write_whole


@pytest.fixture
def flushed(monkeypatch):
    """Names that were flushed to disk and files that were renamed, in order."""
    events, flush, replace = [], durable.flush, durable.Path.replace
    monkeypatch.setattr(durable, "flush", lambda path: events.append(f"flush {path.name}") or flush(path))
    monkeypatch.setattr(
        durable.Path, "replace", lambda self, to: events.append(f"rename to {to.name}") or replace(self, to)
    )
    return events


def test_a_file_is_flushed_before_it_has_its_name_and_its_folder_after(tmp_path, flushed):
    write_json(tmp_path / "a.json", {"a": [1, 2]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [1, 2]}
    assert flushed == [f"flush a.json.{os.getpid()}.partial", "rename to a.json", f"flush {tmp_path.name}"]


def test_files_of_a_folder_are_all_flushed_before_any_has_its_name(tmp_path, flushed):
    with whole_files(tmp_path) as staged:
        for name in "ab":
            (staged / name).write_text(name)
    assert flushed == ["flush a", "flush b", "rename to a", "rename to b", f"flush {tmp_path.name}"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


@pytest.mark.parametrize("error", [RuntimeError("half written"), KeyboardInterrupt()])
def test_a_failure_leaves_the_earlier_files(tmp_path, error):
    (tmp_path / "a").write_text("earlier")

    def failing(path):
        path.write_text("half")
        raise error

    with pytest.raises(type(error)):
        write_whole(tmp_path / "a", failing)
    with pytest.raises(type(error)), whole_files(tmp_path) as staged:
        failing(staged / "a")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "earlier")]


def test_files_of_a_killed_process_do_not_get_in(tmp_path):
    (tmp_path / "files.partial").mkdir()
    (tmp_path / "files.partial" / "old").write_text("half")
    with whole_files(tmp_path) as staged:
        (staged / "new").write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def in_c(path):
    """What a writer in C++ makes of ENOSPC."""
    raise RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed")


def in_rust(path):
    raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")


def in_python(path):
    try:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")
    finally:
        in_c(path)


@pytest.mark.parametrize(("write", "full_now"), [(in_c, True), (in_rust, False), (in_python, False)])
def test_a_full_disk_is_named_whoever_writes(tmp_path, monkeypatch, write, full_now):
    if full_now:  # the file system refuses whatever is written now
        monkeypatch.setattr(durable.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(DiskFullError, match=r"a could not be written: no space is left on the disk"):
        write_whole(tmp_path / "a", write)
    assert not list(tmp_path.iterdir())


def test_other_failures_are_no_full_disk(tmp_path):
    with pytest.raises(RuntimeError, match="file write failed"):
        write_whole(tmp_path / "a", in_c)
    with pytest.raises(PermissionError), whole_or_gone(tmp_path / "b"):
        raise PermissionError(errno.EACCES, "no")


def test_what_is_wrong_with_a_file_is_named(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    file = StoredFile("a", *size_and_hash(path))
    assert file.fault(tmp_path, "list.json", verify=True) == ""
    path.write_bytes(b"12346")
    assert file.fault(tmp_path, "list.json", verify=False) == ""
    assert "its SHA-256 differs from that in list.json" in file.fault(tmp_path, "list.json", verify=True)
    path.write_bytes(b"1234")
    assert "has 4 bytes; expected 5" in file.fault(tmp_path, "list.json", verify=False)
    path.unlink()
    assert file.fault(tmp_path, "list.json", verify=False) == f"{path} is missing, which list.json lists"
