"""What each training option does: encoders stay frozen, the best is kept, schedules follow evaluations, logs tell."""

import json
import math
from dataclasses import fields, replace
from types import SimpleNamespace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers.trainer_utils import EvalLoopOutput
from typer.main import get_command

from gloria import GloriaModel
from gloria.cli import app
from gloria.data import ShardDataset, write_shards
from gloria.retrieval import Similarities, recall_at
from gloria.small import small_model
from gloria.training import TrainingOptions, evaluation, train
from gloria.training.evaluation import evenly_spaced, measure_names, retrieval_measures
from gloria.training.trainer import GloriaTrainer

OPTIONS = TrainingOptions(epochs=1, batch_size=6, learning_rate=1e-3, retrieval_rows=0, cpu=True, progress=False)


@pytest.fixture
def small(parts, no_network):
    return small_model([row.report for row in parts[0]])


@pytest.fixture
def no_better(monkeypatch):
    """Every evaluation gives the same loss."""
    monkeypatch.setattr(
        GloriaTrainer, "evaluation_loop", lambda *_, **__: EvalLoopOutput(None, None, {"eval_loss": 1.0}, 4)
    )


@pytest.mark.parametrize("side", ["image", "text"])
def test_a_frozen_encoder_stays_as_it_is_to_the_bit(small, parts, tmp_path, side):
    model, processor = small
    before = {name: values.clone() for name, values in model.state_dict().items()}
    train(model, processor, *parts, tmp_path, replace(OPTIONS, **{f"freeze_{side}_encoder": True}))
    changed = {name for name, values in model.state_dict().items() if not torch.equal(values, before[name])}
    assert not any(name.startswith(f"{side}_encoder.") for name in changed)
    assert {"region_projection.weight", "image_projection.weight", "word_projection.weight"} <= changed
    assert any(name.startswith("text_encoder." if side == "image" else "image_encoder.") for name in changed)


def test_the_best_model_is_kept_by_what_is_asked_for(small, parts, tmp_path):
    model, processor = small
    options = replace(OPTIONS, epochs=3, learning_rate=0.03, best_by="loss")
    metrics = train(model, processor, *parts, tmp_path, options)
    losses = {entry["step"]: entry["eval_loss"] for entry in metrics["log"] if "eval_loss" in entry}
    best = min(losses, key=losses.get)
    kept = GloriaModel.from_pretrained(tmp_path / "checkpoints" / f"checkpoint-{best}").state_dict()
    for name, values in GloriaModel.from_pretrained(tmp_path).state_dict().items():
        assert torch.equal(values, kept[name]), name


def test_early_stopping_ends_a_run_that_gets_no_better(small, parts, tmp_path, no_better):
    metrics = train(*small, *parts, tmp_path, replace(OPTIONS, epochs=9, early_stopping=2))
    assert sum("eval_loss" in entry for entry in metrics["log"]) == 3  # the first is the best so far


def test_six_evaluations_without_a_better_one_halve_the_learning_rate(small, parts, tmp_path, no_better):
    metrics = train(*small, *parts, tmp_path, replace(OPTIONS, epochs=8, schedule="plateau"))
    rates = [entry["learning_rate"] for entry in metrics["log"] if "learning_rate" in entry]
    assert rates == [1e-3] * 7 + [5e-4]


def test_adam_and_clipping_are_those_asked_for(small, parts, tmp_path):
    options = replace(OPTIONS, optimizer="adam", beta1=0.5, max_grad_norm=0.25, learning_rate=0.002)
    trainer = GloriaTrainer(*small, *parts, tmp_path, options)
    optimizer = trainer.create_optimizer()
    assert type(optimizer) is torch.optim.Adam
    assert (optimizer.defaults["lr"], optimizer.defaults["betas"]) == (0.002, (0.5, 0.999))
    assert trainer.args.max_grad_norm == 0.25
    adamw = GloriaTrainer(*small, *parts, tmp_path, replace(options, optimizer="adamw")).create_optimizer()
    assert type(adamw) is torch.optim.AdamW
    assert adamw.defaults["betas"] == (0.5, 0.999)


def test_every_evaluation_measures_retrieval_and_the_best_may_be_kept_by_it(small, parts, tmp_path):
    options = replace(OPTIONS, epochs=2, retrieval_rows=3, ks=(1, 3), best_by="text_to_image_R@1")
    metrics = train(*small, *parts, tmp_path, options)
    evaluations = [entry for entry in metrics["log"] if "eval_loss" in entry]
    names = measure_names(3, (1, 3))
    assert len(names) == 8
    assert len(evaluations) == 2
    for entry in evaluations:
        assert all(0 <= entry[f"eval_{name}"] <= 1 for name in names)
        assert entry["eval_image_to_text_R@3"] == 1  # of three rows the own one is always among the best three
    state = json.loads((tmp_path / "checkpoints" / "checkpoint-4" / "trainer_state.json").read_text())
    assert state["best_metric"] == max(entry["eval_text_to_image_R@1"] for entry in evaluations)


def test_a_measure_that_these_rows_do_not_have_is_refused_before_training(small, parts, tmp_path):
    options = replace(OPTIONS, retrieval_rows=4, best_by="image_to_text_P@10")
    with pytest.raises(ValueError, match=r"best_by is 'image_to_text_P@10'; expected one of loss, image_to_text_P@1, "):
        train(*small, *parts, tmp_path / "run", options)
    assert not (tmp_path / "run").exists()


def test_measures_are_those_of_the_ranking_that_is_trained(parts, monkeypatch):
    rows = [
        replace(row, report=report, label=label) for row, report, label in zip(parts[0], "abA", "xyx", strict=False)
    ]
    good, bad = torch.tensor([[3.0, 2, 1], [1, 3, 2], [1, 2, 3]]), torch.tensor([[1.0, 2, 3], [3, 1, 2], [3, 2, 1]])
    monkeypatch.setattr(evaluation, "similarities", lambda *_: Similarities(of_global=good, of_local=bad))

    def measured(global_weight, local_weight):
        config = SimpleNamespace(global_weight=global_weight, local_weight=local_weight)
        return retrieval_measures(SimpleNamespace(config=config), None, rows, (1, 2, 9), 1)

    assert list(measured(1, 0)) == measure_names(3, (1, 2, 9))
    assert measured(1, 0)["image_to_text_R@1"] == 1
    assert measured(0, 1)["image_to_text_R@1"] == pytest.approx(2 / 3)  # another row with an equal report is as good
    assert measured(0, 1)["image_to_text_P@1"] == pytest.approx(2 / 3)
    assert measured(1, 0)["image_to_text_P@2"] == pytest.approx((1 / 2 + 1 / 2 + 1 / 2) / 3)
    assert measured(3, 0.5) != measured(1, 0)  # both count, whatever their weights


def test_recall_is_the_share_of_queries_that_find_their_own():
    scores = torch.tensor([[3.0, 2.0, 1.0], [3.0, 1.0, 2.0]])
    assert recall_at(scores, ["a", "b"], ["a", "b", "b"], 1) == 0.5
    assert recall_at(scores, ["a", "b"], ["a", "b", "b"], 2) == 1
    assert recall_at(scores, ["a", "c"], ["a", "b", "b"], 3) == 0.5
    with pytest.raises(ValueError, match="k is 4; expected 1 to the number of candidates, 3"):
        recall_at(scores, ["a", "b"], ["a", "b", "b"], 4)


def test_ranked_rows_are_evenly_spaced():
    assert evenly_spaced(range(10), 4) == [0, 2, 5, 7]
    assert evenly_spaced(range(3), 1000) == [0, 1, 2]
    assert evenly_spaced(range(3), 0) == []


def test_tensorboard_holds_the_log(small, parts, tmp_path):
    metrics = train(*small, *parts, tmp_path, replace(OPTIONS, retrieval_rows=4, report_to=("tensorboard",)))
    (folder,) = {path.parent for path in (tmp_path / "checkpoints" / "runs").rglob("events.*")}
    events = EventAccumulator(str(folder)).Reload()
    logged = next(entry for entry in metrics["log"] if "eval_loss" in entry)
    assert events.Scalars("eval/loss")[0].value == pytest.approx(logged["eval_loss"])
    assert events.Scalars("eval/image_to_text_P@1")[0].value == pytest.approx(logged["eval_image_to_text_P@1"])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"micro_batch_size": 0}, "micro_batch_size is 0; expected at least 1"),
        ({"early_stopping": 0}, "early_stopping is 0; expected at least 1"),
        ({"retrieval_rows": 1}, "retrieval_rows is 1; expected at least two to rank, or 0"),
        ({"retrieval_rows": -1}, "retrieval_rows is -1; expected at least 0"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0; expected a finite number of at least 0"),
        ({"max_grad_norm": math.inf}, "max_grad_norm is inf; expected a finite number of at least 0"),
        ({"beta1": 1.0}, "beta1 is 1.0; expected at least 0 and less than 1"),
        ({"optimizer": "sgd"}, r"optimizer is 'sgd'; expected one of \('adamw', 'adam'\)"),
        ({"schedule": "cosine"}, r"schedule is 'cosine'; expected one of \('linear', 'plateau'\)"),
        ({"bf16": True}, "bf16 is True and there is no GPU that computes in it; add --no-bf16 or --cpu"),
        ({"report_to": ("nowhere",)}, "report_to names 'nowhere'; expected one of .*, or `pip install nowhere`"),
        ({"best_by": "P@1", "retrieval_rows": 0}, "best_by is 'P@1' and retrieval_rows 0; expected 'loss', or rows"),
    ],
)
def test_impossible_training_options(option, message, monkeypatch):
    monkeypatch.setattr("gloria.training.options.is_torch_bf16_gpu_available", lambda: False)
    with pytest.raises(ValueError, match=message):
        TrainingOptions(**option)


def test_workers_that_read_few_rows_each_still_make_batches(parts, tmp_path):
    model, processor = small_model([row.report for row in parts[0]])  # workers hand over tensors by a socket
    write_shards(parts[0], tmp_path / "shards", shards=2)
    shards = ShardDataset(tmp_path / "shards", processor)
    metrics = train(model, processor, shards, parts[1], tmp_path / "run", replace(OPTIONS, workers=2, batch_size=48))
    assert [entry["step"] for entry in metrics["log"] if "eval_loss" in entry] == [2]


def test_the_command_has_every_option_with_its_default():
    parameters = {each.name: each for each in get_command(app).commands["train"].params}
    options = {each.name for each in fields(TrainingOptions)} - {"ks", "progress"}
    assert options <= set(parameters)
    defaults = {name: getattr(TrainingOptions(), name) for name in options - {"report_to"}}
    assert {name: parameters[name].default for name in defaults} == defaults
    assert "released" in parameters["beta1"].help
