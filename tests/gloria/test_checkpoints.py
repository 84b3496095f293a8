"""Checkpoints are whole or not used: where a file is missing, cut off or changed, an older one is, and that is said."""

import json
import os
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from crashing import crashing_forward
from transformers.trainer_utils import EvalLoopOutput

from gloria import GloriaModel
from gloria.data import read_table, split_rows, write_phantoms
from gloria.small import small_model
from gloria.training import TrainingOptions, checkpoints, last_checkpoint, train
from gloria.training.checkpoints import fault_of, find_checkpoint, keep_newest, seal
from gloria.training.trainer import GloriaTrainer

OPTIONS = TrainingOptions(epochs=3, batch_size=6, learning_rate=1e-3, retrieval_rows=0, cpu=True, progress=False)


@pytest.fixture(scope="session")
def parts(tmp_path_factory):
    """Six phantoms to train on, one step an epoch, and six to hold out."""
    return split_rows(read_table(write_phantoms(tmp_path_factory.mktemp("phantoms"), 12, size=64)), held_out=0.5)


@pytest.fixture(scope="module")
def straight(parts, tmp_path_factory):
    """A finished run: its folder, with the checkpoints of the last two epochs of one step, and its weights."""
    out = tmp_path_factory.mktemp("straight")
    model, processor = small_model([row.report for row in parts[0]])
    train(model, processor, *parts, out, OPTIONS)
    return out, model.state_dict()


@pytest.fixture
def out(straight, tmp_path):
    """A copy of the finished run."""
    return Path(shutil.copytree(straight[0], tmp_path / "run"))


def names(out):
    return sorted(path.name for path in (out / "checkpoints").iterdir())


def flip(path):
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)


def test_the_newest_two_are_kept_each_with_its_manifest(out):
    assert names(out) == ["checkpoint-2", "checkpoint-3"]
    for checkpoint in (out / "checkpoints").iterdir():
        assert fault_of(checkpoint) == ""
        listed = json.loads((checkpoint / "manifest-0.json").read_text())
        assert {each["name"] for each in listed["files"]} == set(os.listdir(checkpoint)) - {"manifest-0.json"}
        assert listed["ranks"] == 1


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "model.safetensors"])
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (Path.unlink, "is missing, which manifest-0.json lists"),
        (lambda path: os.truncate(path, path.stat().st_size - 1), "it was cut off or changed"),
        (flip, "is not what was written: its SHA-256 differs"),
    ],
)
def test_a_damaged_checkpoint_is_not_used(out, name, damage, reason):
    path = out / "checkpoints" / "checkpoint-3" / name
    damage(path)
    fault = fault_of(path.parent)
    assert fault.startswith(str(path))
    assert reason in fault
    assert last_checkpoint(out).endswith("checkpoint-2")


def test_what_is_passed_over_is_named_once_and_written_again(parts, new_model, straight, out):
    (out / "checkpoints" / "checkpoint-3" / "scheduler.pt").unlink()
    model, processor = new_model(seed=1)
    with pytest.warns(UserWarning, match="resuming from .*checkpoint-2; passed over: .*-3/scheduler.pt is mis") as said:
        train(model, processor, *parts, out, OPTIONS, resume=True)
    assert sum("passed over" in str(each.message) for each in said) == 1
    for key, values in model.state_dict().items():
        assert torch.equal(values, straight[1][key]), key
    assert fault_of(out / "checkpoints" / "checkpoint-3") == ""


def test_a_checkpoint_that_never_had_its_state_is_not_used_whatever_its_manifest_says(out):
    checkpoint = out / "checkpoints" / "checkpoint-3"
    (checkpoint / "optimizer.pt").unlink()
    seal(checkpoint, 0, 1)
    assert fault_of(checkpoint) == f"{checkpoint / 'manifest-0.json'} does not list optimizer.pt"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"ranks": 1}', '{"ranks": 1, "files": [{}]}'])
def test_a_damaged_manifest_is_none(out, text):
    (out / "checkpoints" / "checkpoint-3" / "manifest-0.json").write_text(text)
    assert "manifest-0.json is damaged" in fault_of(out / "checkpoints" / "checkpoint-3")
    assert last_checkpoint(out).endswith("checkpoint-2")


def test_no_whole_checkpoint_is_no_run_to_resume_and_none_to_overwrite(parts, new_model, out):
    for checkpoint in (out / "checkpoints").iterdir():
        (checkpoint / "optimizer.pt").unlink()
    assert last_checkpoint(out) is None
    with pytest.raises(ValueError, match=r"no whole checkpoint to resume from \(.*-3/optimizer.pt is missing"):
        train(*new_model(), *parts, out, OPTIONS, resume=True)
    (out / "metrics.json").unlink()
    with pytest.raises(ValueError, match="already holds a run"):
        train(*new_model(), *parts, out, OPTIONS)


def test_folders_of_the_user_do_not_matter(parts, new_model, tmp_path):
    """They look like checkpoints, newer and older ones, to whoever does not read their names to the end."""
    foreign = [tmp_path / "checkpoints" / name for name in ("checkpoint-6.bak", "checkpoint-best", "checkpoint-01")]
    for folder in foreign:
        folder.mkdir(parents=True)
        os.utime(folder, (0, 0))
    train(*new_model(), *parts, tmp_path, replace(OPTIONS, epochs=4))
    assert all(folder.is_dir() for folder in foreign)
    assert last_checkpoint(tmp_path).endswith("checkpoint-4")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "resuming from")
        train(*new_model(), *parts, tmp_path, replace(OPTIONS, epochs=4), resume=True)


def test_a_checkpoint_cut_off_while_it_was_written_is_written_again(parts, new_model, straight, tmp_path, monkeypatch):
    """Killed between its last file and its manifest; what another run left there does not get into it."""

    class Killed(BaseException):
        pass

    def killed(checkpoint, *_):
        if checkpoint.name == "checkpoint-2":
            raise Killed

    with monkeypatch.context() as patch:
        original = checkpoints.seal
        patch.setattr("gloria.training.trainer.seal", lambda *given: killed(*given) or original(*given))
        patch.setattr("gloria.durable._remove", lambda path: None)  # SIGKILL clears nothing away
        patch.setattr("gloria.training.run._save_last_finished_step", lambda trainer: None)
        with pytest.raises(Killed):
            train(*new_model(), *parts, tmp_path, OPTIONS)
    unfinished = tmp_path / "checkpoints" / "checkpoint-2"
    assert (unfinished / "trainer_state.json").exists()
    (unfinished / "stale").touch()
    assert find_checkpoint(tmp_path / "checkpoints") == (
        tmp_path / "checkpoints" / "checkpoint-1",
        [f"{unfinished / 'manifest-0.json'} is missing, which is written last"],
    )
    model, processor = new_model(seed=1)
    with pytest.warns(UserWarning, match="passed over"):
        train(model, processor, *parts, tmp_path, OPTIONS, resume=True)
    assert not (unfinished / "stale").exists()
    for key, values in model.state_dict().items():
        assert torch.equal(values, straight[1][key]), key


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(parts, new_model, tmp_path):
    (tmp_path / "checkpoints" / "checkpoint-9").mkdir(parents=True)
    (tmp_path / "checkpoints" / "checkpoint-9" / "model.safetensors").touch()
    train(*new_model(), *parts, tmp_path, replace(OPTIONS, epochs=1))
    assert names(tmp_path) == ["checkpoint-1"]


def made(folder, step, ranks=1, sealed=None):
    """A checkpoint of as many processes, of which these have written their parts."""
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    for name in ("optimizer.pt", "scheduler.pt", "trainer_state.json", "run.json"):
        (checkpoint / name).write_text(name)
    for rank in range(ranks) if sealed is None else sealed:
        (checkpoint / ("rng_state.pth" if ranks == 1 else f"rng_state_{rank}.pth")).write_text(str(rank))
        seal(checkpoint, rank, ranks)
    return checkpoint


def test_a_checkpoint_of_several_processes_is_whole_when_each_has_written_its_part(tmp_path):
    checkpoint = made(tmp_path, 3, ranks=3, sealed=(2, 0))
    assert fault_of(checkpoint) == f"{checkpoint / 'manifest-1.json'} is missing, which is written last"
    (checkpoint / "rng_state_1.pth").touch()
    seal(checkpoint, 1, 3)
    assert fault_of(checkpoint) == ""
    flip_state = checkpoint / "rng_state_2.pth"
    flip_state.write_text("3")
    assert "rng_state_2.pth is not what was written" in fault_of(checkpoint)


def test_what_is_kept_are_whole_ones_and_the_best(tmp_path):
    for step in (1, 2, 3, 4):
        made(tmp_path, step)
    made(tmp_path, 5, ranks=2, sealed=(0,))
    keep_newest(tmp_path, None)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"checkpoint-3", "checkpoint-4", "checkpoint-5"}  # the other process is still writing
    made(tmp_path, 6)
    keep_newest(tmp_path, str(tmp_path / "checkpoint-3"))
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-3", "checkpoint-6"}


def test_a_lost_best_model_is_named(parts, new_model, tmp_path, monkeypatch):
    """The best of a run that gets worse and worse is its first; damaged, the best of those after it is kept."""
    losses = iter([1.0, 2.0, 4.0, 3.0])
    monkeypatch.setattr(
        GloriaTrainer, "evaluation_loop", lambda *_, **__: EvalLoopOutput(None, None, {"eval_loss": next(losses)}, 4)
    )
    options = replace(OPTIONS, epochs=4, best_by="loss")
    with monkeypatch.context() as patch:
        patch.setattr(GloriaModel, "forward", crashing_forward(3, KeyError()))
        with pytest.raises(KeyError):
            train(*new_model(), *parts, tmp_path, options)
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-2"]
    flip(tmp_path / "checkpoints" / "checkpoint-1" / "model.safetensors")
    with pytest.warns(UserWarning, match=r"the best model so far is lost \(.*checkpoint-1/model.safetensors is not wh"):
        train(*new_model(), *parts, tmp_path, options, resume=True)
    state = json.loads((tmp_path / "checkpoints" / "checkpoint-4" / "trainer_state.json").read_text())
    assert (state["best_global_step"], state["best_metric"]) == (4, 3.0)


def test_the_best_model_is_found_where_the_run_was_moved_to(parts, new_model, tmp_path, monkeypatch):
    losses = iter([1.0, 2.0, 3.0])
    monkeypatch.setattr(
        GloriaTrainer, "evaluation_loop", lambda *_, **__: EvalLoopOutput(None, None, {"eval_loss": next(losses)}, 4)
    )
    options = replace(OPTIONS, best_by="loss")
    with monkeypatch.context() as patch:
        patch.setattr(GloriaModel, "forward", crashing_forward(3, KeyError()))
        with pytest.raises(KeyError):
            train(*new_model(), *parts, tmp_path / "here", options)
    (tmp_path / "here").rename(tmp_path / "there")
    train(*new_model(), *parts, tmp_path / "there", options, resume=True)
    kept = GloriaModel.from_pretrained(tmp_path / "there" / "checkpoints" / "checkpoint-1").state_dict()
    for key, values in GloriaModel.from_pretrained(tmp_path / "there").state_dict().items():
        assert torch.equal(values, kept[key]), key
