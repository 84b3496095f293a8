"""A full disk (tmpfs, where the platform lets a test mount one): one line, and all goes on when there is room.

Where it does not, the tests of `test_durable.py` still show what is made of ENOSPC, injected.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from gloria import GloriaModel
from gloria.cli import app
from gloria.data import write_phantoms, write_table
from gloria.index import EmbeddingIndex
from gloria.training import last_checkpoint

SMALL = ["--held-out", "0.5", "--preset", "small", "--epochs", "2", "--batch-size", "6", "--cpu"]
IN_A_NAMESPACE = ["unshare", "--map-root-user", "--mount"]
MOUNT = 'mount -t tmpfs -o size="$1" tmpfs "$2" || exit 99; shift 2'
# What is on the disk is gone with the namespace, so it is copied to one that has room.
RUN = f'{MOUNT}; out=$1; kept=$2; shift 2; "$@"; status=$?; test ! -e "$out" || cp -a "$out" "$kept"; exit $status'


def mounts(folder):
    """Whether a test may mount a disk of its own."""
    try:
        tried = subprocess.run([*IN_A_NAMESPACE, "sh", "-c", MOUNT, "sh", "1m", folder], capture_output=True)
    except FileNotFoundError:
        return False
    return tried.returncode == 0


@pytest.fixture
def on_small_disk(tmp_path):
    """Runs `gloria` with its output on a disk of that size; gives what it returned, and a copy of that output."""
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    if not mounts(disk):
        pytest.skip("this platform does not let a test mount a disk")

    def run(size, arguments):
        command = [sys.executable, "-W", "ignore", "-m", "gloria", *arguments, "--out", disk / "out"]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "HF_HUB_OFFLINE": "1"}
        ended = subprocess.run(
            [*IN_A_NAMESPACE, "sh", "-c", RUN, "sh", size, disk, disk / "out", kept, *map(str, command)],
            env=environment,
            capture_output=True,
            text=True,
        )
        if kept.exists():
            shutil.copytree(kept, disk / "out")  # now on the disk that has room
        return ended, disk / "out"

    return run


def gloria(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_phantoms(tmp_path_factory.mktemp("phantoms"), 12, size=64)


@pytest.fixture(scope="module")
def straight(table, tmp_path_factory):
    """The weights of a run that has room."""
    out = tmp_path_factory.mktemp("straight")
    assert gloria("train", table, *SMALL, "--out", out).exit_code == 0
    return GloriaModel.from_pretrained(out).state_dict()


# The weights take 3.3 MB, a checkpoint 10: the disk is full in the weights of the first one, in the optimizer of the
# second, or in the finished model.
@pytest.mark.parametrize(("size", "epochs", "left"), [("2m", 2, 0), ("18m", 2, 1), ("12m", 1, 1)])
def test_training_names_it_and_goes_on_when_there_is_room(table, on_small_disk, straight, size, epochs, left):
    ended, out = on_small_disk(size, ["train", table, *SMALL, "--epochs", epochs])
    last = ended.stderr.splitlines()[-1]
    assert ended.returncode == 2, ended.stderr
    assert last.startswith(f"gloria: {out}")
    assert "could not be written: no space is left on the disk" in last
    assert "Traceback" not in ended.stderr
    whole = last_checkpoint(out)
    assert (whole is None) if left == 0 else whole.endswith(f"checkpoint-{left}")
    assert ("make room, and begin again" if left == 0 else f"make room, and go on from {whole} with --resume") in last
    assert not list(out.rglob("*.partial"))
    assert len(list((out / "checkpoints").iterdir())) == left
    more = ["--resume", *(["--change", "epochs"] if epochs == 1 else [])] if left else []
    resumed = gloria("train", table, *SMALL, "--out", out, *more)
    assert resumed.exit_code == 0, resumed.output
    if epochs == 2:
        for name, values in GloriaModel.from_pretrained(out).state_dict().items():
            assert torch.equal(values, straight[name]), name


def test_an_index_build_names_it_and_continues_when_there_is_room(on_small_disk, model, processor, rows, tmp_path):
    for part in (model, processor):
        part.save_pretrained(tmp_path / "run")
    write_table(tmp_path / "table.csv", rows)
    build = ["index", "build", tmp_path / "run", tmp_path / "table.csv", "--of", "images", "--cpu"]
    ended, out = on_small_disk("8k", build)
    assert ended.returncode == 2, ended.stderr
    (line,) = [each for each in ended.stderr.splitlines() if each.startswith("gloria: ")]
    assert line.startswith(f"gloria: {out / 'shard-00000.safetensors'}")
    assert "no space is left on the disk" in line
    assert not out.exists()
    assert gloria(*build, "--out", out).exit_code == 0
    assert len(EmbeddingIndex(out)) == len(rows)
