"""A resumed run is the one that was interrupted: what differs is named and refused, or taken over and recorded."""

import json
import re
import shutil
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from crashing import crashing_forward
from transformers.trainer_utils import EvalLoopOutput

from gloria import GloriaConfig, GloriaModel, GloriaProcessor
from gloria.data import ShardDataset
from gloria.data.shards import write_shards
from gloria.small import small_model
from gloria.training import TrainingOptions, last_checkpoint, train
from gloria.training.record import CHANGEABLE, NOT_COMPARED, RunRecord
from gloria.training.trainer import GloriaTrainer

OPTIONS = TrainingOptions(epochs=2, batch_size=6, learning_rate=1e-3, retrieval_rows=0, cpu=True, progress=False)
OTHER = {
    "epochs": 3,
    "batch_size": 5,
    "micro_batch_size": 3,
    "learning_rate": 2e-3,
    "optimizer": "adam",
    "beta1": 0.5,
    "weight_decay": 0.1,
    "schedule": "plateau",
    "max_grad_norm": 0.25,
    "all_negatives": 0.25,
    "early_stopping": 7,
    "best_by": "loss",
    "freeze_image_encoder": True,
    "freeze_text_encoder": True,
    "retrieval_rows": 4,
    "ks": (1, 2),
    "text": "sentences",
    "bad_files": "refuse",
    "group_equal_reports": False,
    "workers": 1,
    "seed": 1,
    "bf16": True,
}


def crashed_run(parts, out, options, step, **given):
    """A run of two steps an epoch whose next forward pass after the given step crashes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GloriaModel, "forward", crashing_forward(step + 1, KeyError()))
        with pytest.raises(KeyError):
            train(*small_model([row.report for row in parts[0]]), *parts, out, options, **given)
    assert last_checkpoint(out).endswith(f"checkpoint-{step}")


@pytest.fixture(scope="module")
def crashed(parts, tmp_path_factory):
    out = tmp_path_factory.mktemp("crashed") / "run"
    crashed_run(parts, out, OPTIONS, 3, origin={"encoder": "a"})
    return out


@pytest.fixture
def out(crashed, tmp_path):
    return Path(shutil.copytree(crashed, tmp_path / "run"))


def test_every_option_is_compared_or_changes_no_figure():
    assert set(OTHER) | set(NOT_COMPARED) == {field.name for field in fields(TrainingOptions)}
    assert not set(OTHER) & set(NOT_COMPARED)


@pytest.mark.parametrize("name", OTHER)
def test_an_option_that_differs_is_named_and_refused(parts, new_model, crashed, name):
    before, now = getattr(OPTIONS, name), OTHER[name]
    shown = [list(value) if isinstance(value, tuple) else value for value in (before, now)]
    named = f"{crashed} cannot be resumed: the run has {name} {shown[0]!r}, not {shown[1]!r}; "
    with pytest.raises(ValueError, match=re.escape(named)) as refused:
        train(*new_model(), *parts, crashed, replace(OPTIONS, **{name: now}), resume=True)
    way = f"take what is new over with --change {name}" if name in CHANGEABLE else f"{name} cannot change within a run"
    assert way in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_run_that_did_not_record_a_setting_goes_on():
    now = RunRecord({"seed": 0, "image_size": "64"})
    assert now.going_on_from(RunRecord({"seed": 0}), 3, []) == now


def test_all_that_differs_is_named_and_what_cannot_change_is_refused_whatever_is_said(parts, new_model, crashed):
    options = replace(OPTIONS, learning_rate=2e-3, seed=1)
    with pytest.raises(
        ValueError, match=r"the run has learning_rate 0.001, not 0.002, seed 0, not 1; seed cannot change"
    ):
        train(*new_model(), *parts, crashed, options, resume=True, change=["learning_rate"])
    with pytest.raises(ValueError, match="change names seed, lr; expected any of epochs, learning_rate, "):
        train(*new_model(), *parts, crashed, options, resume=True, change=["seed", "lr"])
    with pytest.raises(ValueError, match="the run has encoder 'a', not 'b'; encoder cannot change within a run"):
        train(*new_model(), *parts, crashed, OPTIONS, resume=True, origin={"encoder": "b"})
    with pytest.raises(ValueError, match="change names epochs of a run that begins; expected it with --resume alone"):
        train(*new_model(), *parts, crashed.parent / "new", OPTIONS, change=["epochs"])


@pytest.mark.parametrize("change", [{"report": "Another."}, {"image": Path("b.png")}, {"line": 99}])
def test_other_rows_are_refused_or_taken_over(parts, new_model, out, change):
    training, held_out = parts
    rows = [replace(training[0], **change), *training[1:]]
    with pytest.raises(ValueError, match=r"the run has other training_rows, 12 of them; .* --change training_rows"):
        train(*new_model(), rows, held_out, out, OPTIONS, resume=True)
    with pytest.raises(ValueError, match="its held-out rows are others"):
        train(*new_model(), training, [replace(held_out[0], **change), *held_out[1:]], out, OPTIONS, resume=True)


def test_a_row_may_be_mended_and_none_left_out(parts, new_model, out):
    training, held_out = parts
    rows = [replace(training[0], report="Another."), *training[1:]]
    metrics = train(*new_model(), rows, held_out, out, OPTIONS, resume=True, change=["training_rows"])
    (change,) = metrics["changes"]
    assert change["step"] == 3
    assert change["training_rows"][0]["sha256"] != change["training_rows"][1]["sha256"]
    with pytest.raises(ValueError, match="other training_rows, 12 of them, not 11; training_rows cannot change within"):
        train(*new_model(), training[1:], held_out, out, OPTIONS, resume=True, change=["training_rows"])


def test_other_shards_are_refused(parts, new_model, tmp_path):
    other = parts[0][5].report.replace("e", "a")
    for name, rows in (("a", parts[0]), ("b", [*parts[0][:5], replace(parts[0][5], report=other), *parts[0][6:]])):
        write_shards(rows, tmp_path / name, shards=2)

    def shards(name, processor):
        return ShardDataset(tmp_path / name, processor, buffer=4)

    def record(name):
        return RunRecord.of(shards(name, new_model()[1]), parts[1], OPTIONS, {})

    assert record("a").going_on_from(record("a"), 1, ()).changes == ()
    with pytest.raises(ValueError, match="the run has other training_rows, 12 of them"):
        record("b").going_on_from(record("a"), 1, ())
    readers = RunRecord.of(shards("a", new_model()[1]), parts[1], replace(OPTIONS, workers=2), {})
    with pytest.raises(ValueError, match="workers cannot change within a run"):
        readers.going_on_from(record("a"), 1, ["workers"])


@pytest.mark.parametrize(("name", "value"), [("processes", 2), ("device", "cuda")])
def test_where_a_run_computes_is_compared(parts, new_model, out, name, value):
    record = RunRecord.of(*parts, OPTIONS, {})
    elsewhere = replace(record, settings=record.settings | {name: value})
    with pytest.raises(ValueError, match=f"the run has {name} .*, not {value!r}"):
        elsewhere.going_on_from(record, 1, ())


def test_another_model_or_processor_is_refused(parts, new_model, crashed):
    model, processor = new_model()
    other = GloriaConfig.from_dict(model.config.to_dict() | {"global_weight": 0.5})
    with pytest.raises(ValueError, match=r"the model has other settings than that of .*checkpoint-3"):
        train(GloriaModel(other), processor, *parts, crashed, OPTIONS, resume=True)
    shorter = GloriaProcessor(processor.image_processor, processor.tokenizer, max_length=20)
    with pytest.raises(ValueError, match="the processor has other settings than that of the run in"):
        train(model, shorter, *parts, crashed, OPTIONS, resume=True)


@pytest.fixture
def steps(monkeypatch):
    """What the optimizer was told in each step, and the trainer of the last one."""
    seen = []
    original = GloriaTrainer.training_step

    def training_step(self, *args, **kwargs):
        groups = self.optimizer.param_groups
        seen.append(
            {
                "step": self.state.global_step,
                "lr": [group["lr"] for group in groups],
                "beta1": {group["betas"][0] for group in groups},
                "weight_decay": [group["weight_decay"] for group in groups],
                "trainer": self,
            }
        )
        return original(self, *args, **kwargs)

    monkeypatch.setattr(GloriaTrainer, "training_step", training_step)
    return seen


def test_what_is_taken_over_has_its_effect_and_is_recorded(parts, new_model, out, steps):
    """The learning rate is that of a run of these options at this step, from the first step on."""
    new = {"epochs": 3, "learning_rate": 2e-3, "beta1": 0.5, "weight_decay": 0.1, "max_grad_norm": 0.25}
    options = replace(OPTIONS, **new)
    metrics = train(*new_model(), *parts, out, options, resume=True, change=list(new))
    assert [each["step"] for each in steps] == [3, 4, 5]
    steps_of_all, warm = 6, 1  # a tenth of the steps, to the next whole one
    for each in steps:
        rate = 2e-3 * (steps_of_all - each["step"]) / (steps_of_all - warm)
        assert each["lr"] == pytest.approx([rate, rate])
        assert each["beta1"] == {0.5}
        assert each["weight_decay"] == [0.1, 0.0]
        assert each["trainer"].args.max_grad_norm == 0.25
    expected = {name: [getattr(OPTIONS, name), value] for name, value in new.items()}
    assert metrics["changes"] == [{"step": 3, **expected}]
    assert metrics["options"]["learning_rate"] == 2e-3
    assert json.loads((out / "metrics.json").read_text())["changes"] == metrics["changes"]
    again = train(*new_model(), *parts, out, replace(options, epochs=4), resume=True, change=["epochs"])
    assert again["changes"] == [*metrics["changes"], {"step": 6, "epochs": [3, 4]}]


def test_what_is_taken_over_counts_from_the_checkpoint_however_often_it_is_tried(parts, new_model, out, steps):
    options = replace(OPTIONS, learning_rate=2e-3)
    for _ in range(2):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(GloriaModel, "forward", crashing_forward(1, KeyError()))
            with pytest.raises(KeyError):
                train(*new_model(), *parts, out, options, resume=True, change=["learning_rate"])
        with pytest.raises(ValueError, match=r"the run has learning_rate 0.001, not 0.002"):
            train(*new_model(), *parts, out, options, resume=True)
    assert steps[0]["lr"] == steps[1]["lr"] == pytest.approx([2e-3 / 3] * 2)


def test_the_learning_rate_of_a_plateau_is_scaled(parts, new_model, tmp_path, steps):
    options = replace(OPTIONS, schedule="plateau")
    crashed_run(parts, tmp_path, options, 3)
    train(*new_model(), *parts, tmp_path, replace(options, learning_rate=3e-3), resume=True, change=["learning_rate"])
    assert [each["lr"] for each in steps][-1] == pytest.approx([3e-3] * 2)


def evaluations(monkeypatch, losses, interrupt=()):
    """Evaluations give these losses; those of the given numbers are broken off by Ctrl-C."""
    told = []

    def loop(self, *_, **__):
        told.append(self.state.global_step)
        torch.rand(3)  # as a loader of data draws
        if len(told) in interrupt:
            raise KeyboardInterrupt
        return EvalLoopOutput(None, None, {"eval_loss": losses[self.state.global_step]}, 4)

    monkeypatch.setattr(GloriaTrainer, "_loss_and_retrieval", loop)
    return told


PLATEAU = replace(OPTIONS, epochs=4, schedule="plateau", early_stopping=2, best_by="loss")


LOSSES = {2: 3.0, 4: 1.0, 6: 2.0, 8: 2.5}  # stopped early after the fourth, the best is the second


def evaluated_run(parts, out, interrupt=()):
    """The weights, evaluations and best metric of a run that is resumed where one of its evaluations is broken off."""
    given = (*parts, out, replace(PLATEAU, epochs=9))
    with pytest.MonkeyPatch.context() as patch:
        told = evaluations(patch, LOSSES, interrupt)
        model, processor = small_model([row.report for row in parts[0]])
        if interrupt:
            with pytest.raises(KeyboardInterrupt):
                train(model, processor, *given)
            model, processor = small_model([row.report for row in parts[0]], seed=1)
        metrics = train(model, processor, *given, resume=bool(interrupt))
    assert told == sorted([*LOSSES, *(2 * each for each in interrupt)])
    state = json.loads((Path(last_checkpoint(out)) / "trainer_state.json").read_text())
    found = [entry["eval_loss"] for entry in metrics["log"] if "eval_loss" in entry]
    return model.state_dict(), found, state["best_metric"]


@pytest.fixture(scope="module")
def evaluated_straight(parts, tmp_path_factory):
    return evaluated_run(parts, tmp_path_factory.mktemp("evaluated") / "run")


@pytest.mark.parametrize("interrupted", [1, 2, 3, 4])
def test_an_interrupted_evaluation_is_made_again_and_the_run_ends_the_same(
    parts, evaluated_straight, tmp_path, interrupted
):
    ends = [evaluated_straight, evaluated_run(parts, tmp_path / "run", (interrupted,))]
    assert ends[0][1] == ends[1][1] == list(LOSSES.values())
    assert ends[0][2] == ends[1][2] == 1.0
    for key, values in ends[0][0].items():
        assert torch.equal(values, ends[1][0][key]), key


def test_a_run_that_has_stopped_early_does_not_go_on(parts, new_model, tmp_path, monkeypatch):
    losses = {2: 1.0, 4: 2.0, 6: 3.0, 8: 4.0}
    told = evaluations(monkeypatch, losses)
    model, processor = new_model()
    with monkeypatch.context() as patch:
        patch.setattr("gloria.training.run._write_results", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(model, processor, *parts, tmp_path, PLATEAU)
    assert told == [2, 4, 6]
    resumed, processor = new_model(seed=1)
    train(resumed, processor, *parts, tmp_path, PLATEAU, resume=True)
    assert told == [2, 4, 6]
    for key, values in model.state_dict().items():
        assert torch.equal(values, resumed.state_dict()[key]), key
    patient = replace(PLATEAU, early_stopping=3)
    train(*new_model(), *parts, tmp_path, patient, resume=True, change=["early_stopping"])
    assert told == [2, 4, 6, 8]
