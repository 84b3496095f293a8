"""Completes, checks, finds and removes the checkpoints of a run."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME

from gloria.durable import StoredFile, flush, size_and_hash, write_json

CHECKPOINTS = "checkpoints"
RECORD = "run.json"
KEPT = 2
_REQUIRED = (OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME, RECORD)
_RANDOM_STATE = re.compile(r"rng_state_(\d+)\.pth")


def checkpoint_of(folder: str | Path, step: int) -> Path:
    """Return the path of the checkpoint after a step, in a folder of checkpoints."""
    return Path(folder) / f"checkpoint-{step}"


def manifest_of(rank: int) -> str:
    """Return the name of the file in which a process lists its files of a checkpoint."""
    return f"manifest-{rank}.json"


def seal(checkpoint: Path, rank: int, ranks: int) -> None:
    """Flush the files of this process to disk, and then list them, which makes its part of the checkpoint count.

    No process waits for another: the checkpoint is complete when all have called this.

    Args:
        checkpoint: folder of the checkpoint.
        rank: rank of this process, which wrote its random state; the first process wrote everything else.
        ranks: number of processes.
    """
    written = []
    for path in sorted(checkpoint.iterdir()):
        state_of = _RANDOM_STATE.fullmatch(path.name)
        owner = int(state_of[1]) if state_of else 0
        if path.is_file() and owner == rank and not path.name.startswith("manifest-"):
            flush(path)
            written.append(path.name)
    flush(checkpoint)
    files = [vars(StoredFile(name, *size_and_hash(checkpoint / name))) for name in written]
    write_json(checkpoint / manifest_of(rank), {"ranks": ranks, "files": files})
    flush(checkpoint.parent)


def is_sealed(checkpoint: Path, rank: int) -> bool:
    """Return whether this process has written its whole part of the checkpoint."""
    return (checkpoint / manifest_of(rank)).is_file()


def fault_of(checkpoint: Path, verify: bool = True) -> str:
    """Say why a checkpoint is incomplete, "" = it is complete.

    Args:
        checkpoint: its folder.
        verify: compare the hashes of the files, which reads all of them. False compares only their sizes.
    """
    rank, ranks = 0, 1
    while rank < ranks:
        name = manifest_of(rank)
        try:
            listed: Any = json.loads((checkpoint / name).read_text(encoding="utf-8"))
            ranks = int(listed["ranks"])
            files = [StoredFile(**each) for each in listed["files"]]
        except FileNotFoundError:
            return f"{checkpoint / name} is missing, which is written last"
        except (OSError, ValueError, TypeError, KeyError) as error:
            return f"{checkpoint / name} is damaged ({error})"
        state = "rng_state.pth" if ranks == 1 else f"rng_state_{rank}.pth"
        needed = {state, *(_REQUIRED if rank == 0 else ())}
        if missing := sorted(needed - {file.name for file in files}):
            return f"{checkpoint / name} does not list {', '.join(missing)}"
        for file in files:
            if fault := file.fault(checkpoint, name, verify):
                return fault
        rank += 1
    return ""


def find_checkpoint(folder: str | Path, verify: bool = True) -> tuple[Path | None, list[str]]:
    """Return the newest complete checkpoint in a folder, if any, and the faults of newer ones."""
    faults: list[str] = []
    for checkpoint in reversed(_checkpoints(folder)):
        fault = fault_of(checkpoint, verify)
        if not fault:
            return checkpoint, faults
        faults.append(fault)
    return None, faults


def last_checkpoint(out: str | Path, verify: bool = True) -> str | None:
    """Return the path of the newest complete checkpoint of a run folder, None if there is none.

    Args:
        out: the run folder.
        verify: compare the hashes of its files, which reads all of them. False compares only their sizes.
    """
    checkpoint, _ = find_checkpoint(Path(out) / CHECKPOINTS, verify)
    return None if checkpoint is None else str(checkpoint)


def holds_checkpoints(folder: str | Path) -> bool:
    """Return whether a folder has a checkpoint that was once complete, even if it has been damaged since."""
    ends = (manifest_of(0), TRAINER_STATE_NAME)
    return any((checkpoint / name).exists() for checkpoint in _checkpoints(folder) for name in ends)


def remove_after(folder: str | Path, step: int) -> None:
    """Remove the checkpoints after a step: a run that resumes there writes them again."""
    for checkpoint in _checkpoints(folder):
        if step_of(checkpoint) > step:
            shutil.rmtree(checkpoint, ignore_errors=True)


def keep_newest(folder: str | Path, best: str | None) -> None:
    """Remove all complete checkpoints but the newest two, or the newest and the best; and older unfinished ones.

    Args:
        folder: folder of the checkpoints.
        best: path of the best checkpoint, if it is to be kept.
    """
    checkpoints = _checkpoints(folder)
    whole = [checkpoint for checkpoint in checkpoints if not fault_of(checkpoint, verify=False)]
    if not whole:
        return
    kept = {whole[-1]}
    if best is not None:
        kept.update(each for each in whole if each.name == os.path.basename(best))
    kept.update(whole[-KEPT:] if len(kept) < KEPT else ())
    for checkpoint in checkpoints:
        # A newer checkpoint may still wait for the part of another process.
        if checkpoint not in kept and step_of(checkpoint) < step_of(whole[-1]):
            shutil.rmtree(checkpoint, ignore_errors=True)


def step_of(checkpoint: str | Path) -> int:
    """Return the step after which a checkpoint was written, -1 if the folder is not a run's checkpoint."""
    named = re.fullmatch(r"checkpoint-(0|[1-9][0-9]*)", Path(checkpoint).name)
    return int(named[1]) if named else -1


def _checkpoints(folder: str | Path) -> list[Path]:
    """Return the folders that a run makes, oldest first; others, such as checkpoint-6.bak, are the user's."""
    found = [path for path in Path(folder).glob("checkpoint-*") if step_of(path) >= 0 and path.is_dir()]
    return sorted(found, key=step_of)
