"""Ctrl-C and SIGTERM: they act when the step or the checkpoint is finished, and the next call goes on from there."""

import errno
import os
import signal
import threading
from dataclasses import replace

import pytest
import torch
from transformers import Trainer

from gloria import GloriaModel
from gloria.small import small_model
from gloria.training import TrainingOptions, last_checkpoint, train
from gloria.training.checkpoints import seal
from gloria.training.interruptions import Interruptions
from gloria.training.trainer import GloriaTrainer

OPTIONS = TrainingOptions(epochs=2, batch_size=6, learning_rate=1e-3, retrieval_rows=3, cpu=True, progress=False)


class Ended(BaseException):
    """What the test's handler of SIGTERM raises."""


@pytest.fixture(autouse=True)
def handler():
    """Makes an exception of SIGTERM, as the command does."""

    def end(*_):
        raise Ended

    before = signal.signal(signal.SIGTERM, end)
    yield end
    assert signal.getsignal(signal.SIGTERM) is end
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module")
def straight(parts, tmp_path_factory):
    """The weights of a run that nothing interrupts."""
    model, processor = small_model([row.report for row in parts[0]])
    train(model, processor, *parts, tmp_path_factory.mktemp("straight"), OPTIONS)
    return model.state_dict()


def send(number):
    os.kill(os.getpid(), number)
    signal.sigpending()  # lets Python run its handler


def signalled(monkeypatch, owner, name, call, number):
    """A signal arrives in the given call of a method, which goes on to its end."""
    calls, original = [], getattr(owner, name)

    def method(*args, **kwargs):
        calls.append(name)
        if len(calls) == call:
            send(number)
        return original(*args, **kwargs)

    method.__wrapped__ = original  # Trainer reads the signature
    monkeypatch.setattr(owner, name, method)
    return calls


@pytest.mark.parametrize(
    ("owner", "name", "call", "left"),
    [
        (GloriaModel, "forward", 1, 1),  # within a step: the step is finished
        (torch.optim.AdamW, "step", 3, 3),  # while the weights change: so is the change
        (Trainer, "_save_checkpoint", 1, 2),  # within a checkpoint: it is written
        (torch.optim.AdamW, "step", 2, 2),  # in the last step of an epoch, which is not evaluated any more
        (Trainer, "evaluation_loop", 1, 2),
        (GloriaTrainer, "_run_epoch", 2, 2),  # before an epoch begins
    ],
)
@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, Ended), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_leaves_a_whole_checkpoint_from_which_the_run_ends_the_same(
    parts, new_model, straight, tmp_path, monkeypatch, owner, name, call, left, number, error
):
    with monkeypatch.context() as patch:
        signalled(patch, owner, name, call, number)
        with pytest.raises(error):
            train(*new_model(), *parts, tmp_path, OPTIONS)
    assert last_checkpoint(tmp_path).endswith(f"checkpoint-{left}")
    assert not list(tmp_path.rglob("*.partial"))
    assert not (tmp_path / "metrics.json").exists()
    model, processor = new_model(seed=1)
    metrics = train(model, processor, *parts, tmp_path, OPTIONS, resume=True)
    assert [entry["step"] for entry in metrics["log"] if "eval_loss" in entry] == [2, 4]
    for key, values in model.state_dict().items():
        assert torch.equal(values, straight[key]), key


def test_a_second_signal_does_not_break_what_the_first_one_leaves(parts, new_model, tmp_path, monkeypatch):
    """As torchrun sends SIGTERM to those whom Ctrl-C has reached already."""
    signalled(monkeypatch, Trainer, "_save_checkpoint", 1, signal.SIGTERM)
    signalled(monkeypatch, GloriaModel, "forward", 1, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(*new_model(), *parts, tmp_path, OPTIONS)
    assert last_checkpoint(tmp_path).endswith("checkpoint-1")


def test_a_disk_that_is_full_then_is_named(parts, new_model, tmp_path, monkeypatch):
    def full(checkpoint, *given):
        if checkpoint.name == "checkpoint-3":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        seal(checkpoint, *given)

    monkeypatch.setattr("gloria.training.trainer.seal", full)
    signalled(monkeypatch, torch.optim.AdamW, "step", 3, signal.SIGTERM)
    told = r"checkpoint-3 could not be written: no space is left on the disk; the run goes on from .*checkpoint-2"
    with pytest.warns(UserWarning, match=told), pytest.raises(Ended):
        train(*new_model(), *parts, tmp_path, OPTIONS)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["checkpoint-2"]


def test_a_signal_in_the_last_checkpoint_ends_the_run_after_it(parts, new_model, tmp_path, monkeypatch):
    signalled(monkeypatch, Trainer, "_save_checkpoint", 2, signal.SIGTERM)
    with pytest.raises(Ended):
        train(*new_model(), *parts, tmp_path, OPTIONS)
    assert last_checkpoint(tmp_path).endswith("checkpoint-4")
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize("name", ["save_model", "_write_results"])
def test_a_signal_at_the_end_leaves_no_half_of_a_model(parts, new_model, tmp_path, monkeypatch, name):
    def half(owner, *_, **__):
        """Writes some of the files, and is interrupted."""
        (tmp_path / "files.partial" / "half").write_text("half")
        send(signal.SIGTERM)

    options = replace(OPTIONS, epochs=1)
    with monkeypatch.context() as patch:
        if name == "save_model":
            original = GloriaTrainer.save_model
            patch.setattr(
                GloriaTrainer,
                "save_model",
                lambda self, folder, **given: (
                    original(self, folder, **given) if "checkpoint" in folder else half(self, folder)
                ),
            )
        else:
            patch.setattr("gloria.training.run.write_json", half)
        with pytest.raises(Ended):
            train(*new_model(), *parts, tmp_path, options)
    assert not list(tmp_path.rglob("half"))
    assert not (tmp_path / "metrics.json").exists()
    assert (tmp_path / "model.safetensors").exists() == (name == "_write_results")
    train(*new_model(seed=1), *parts, tmp_path, options, resume=True)
    GloriaModel.from_pretrained(tmp_path)


def while_held(seen, then):
    """Holds signals back, gets one, and goes on."""
    with Interruptions() as interruptions:
        interruptions.hold()
        send(signal.SIGTERM)
        seen.append("held")
        then(interruptions)
        seen.append("at the end")


def let_through(interruptions):
    with interruptions.let_through():
        raise AssertionError("the signal had to act first")


def let_another_through(interruptions):
    interruptions.pending = 0
    with interruptions.let_through():
        send(signal.SIGINT)
        raise AssertionError("the signal had to act at once")


def fail(_):
    raise KeyError


@pytest.mark.parametrize(
    ("then", "error", "expected"),
    [
        (let_through, Ended, ["held"]),
        (let_another_through, KeyboardInterrupt, ["held"]),
        (lambda _: None, Ended, ["held", "at the end"]),  # too late to end anything before
        (fail, KeyError, ["held"]),  # the run ends anyhow
    ],
)
def test_signals_are_held_back_and_let_through(then, error, expected):
    seen = []
    with pytest.raises(error):
        while_held(seen, then)
    assert seen == expected


def test_what_python_does_not_handle_is_left_alone(handler):
    with_default = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with Interruptions():
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    signal.signal(signal.SIGTERM, with_default)

    def elsewhere():
        with Interruptions():
            assert signal.getsignal(signal.SIGTERM) is handler

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()


def test_a_signal_of_another_process_acts_as_an_own_one(handler):
    with pytest.raises(Ended), Interruptions() as interruptions:
        interruptions.act(signal.SIGTERM)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with pytest.raises(SystemExit) as ended, Interruptions() as interruptions:
        interruptions.act(signal.SIGTERM)
    assert ended.value.code == 143
    signal.signal(signal.SIGTERM, handler)
