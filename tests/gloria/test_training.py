"""Training: it resumes to the same weights, leaves a checkpoint when it crashes, writes what it promises."""

import json
import math

import numpy as np
import pytest
import torch
from crashing import crashing_forward
from PIL import Image

from gloria import GloriaModel, GloriaProcessor
from gloria.attention import loss_figure, save_figure
from gloria.data import TableDataset, read_table, split_rows, write_phantoms
from gloria.data.reports import text_id
from gloria.small import small_model
from gloria.training import (
    PairCollator,
    TrainingOptions,
    last_checkpoint,
    train,
)

OPTIONS = TrainingOptions(epochs=2, batch_size=6, learning_rate=1e-3, cpu=True, progress=False)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return read_table(write_phantoms(tmp_path_factory.mktemp("phantoms"), 16, size=64))


@pytest.fixture
def parts(rows, no_network):
    return split_rows(rows, held_out=0.25)


@pytest.fixture
def small(parts):
    return small_model([row.report for row in parts[0]])


class Crash(Exception):
    """What a test makes a run end with."""


def crash_at(monkeypatch, call, error=Crash):
    """The given forward pass in training mode raises."""
    monkeypatch.setattr(GloriaModel, "forward", crashing_forward(call, error))


def test_run_folder_holds_what_it_promises(small, parts, tmp_path):
    model, processor = small
    metrics = train(model, processor, *parts, tmp_path, OPTIONS)
    assert json.loads((tmp_path / "metrics.json").read_text()) == json.loads(json.dumps(metrics))
    assert (metrics["training_rows"], metrics["held_out_rows"]) == (12, 4)
    losses = [entry["eval_loss"] for entry in metrics["log"] if "eval_loss" in entry]
    assert len(losses) == OPTIONS.epochs
    assert all(map(math.isfinite, losses))
    for name in ("loss.png", "attention.png"):
        assert np.asarray(Image.open(tmp_path / name)).std() > 0
    assert [row.image for row in read_table(tmp_path / "held_out.csv")] == [row.image for row in parts[1]]
    loaded = GloriaModel.from_pretrained(tmp_path)
    for name, values in model.state_dict().items():
        assert torch.equal(values, loaded.state_dict()[name]), name
    assert GloriaProcessor.from_pretrained(tmp_path).words(**tokens_of(processor)) == processor.words(
        **tokens_of(processor)
    )


def tokens_of(processor):
    batch = processor(text="Small left pleural effusion.")
    return {"input_ids": batch["input_ids"], "word_ids": batch["word_ids"]}


@pytest.mark.parametrize("step", [2, 3, 4])
def test_a_crash_leaves_a_checkpoint_from_which_the_run_ends_the_same(parts, tmp_path, monkeypatch, step):
    reports = [row.report for row in parts[0]]
    model, processor = small_model(reports)
    train(model, processor, *parts, tmp_path / "whole", OPTIONS)

    with monkeypatch.context() as patch:
        crash_at(patch, step)
        with pytest.raises(Crash):
            train(*small_model(reports), *parts, tmp_path / "crashed", OPTIONS)
    assert last_checkpoint(tmp_path / "crashed").endswith(f"checkpoint-{step - 1}")

    resumed, processor = small_model(reports, seed=1)
    train(resumed, processor, *parts, tmp_path / "crashed", OPTIONS, resume=True)
    for name, values in model.state_dict().items():
        assert torch.equal(values, resumed.state_dict()[name]), name


def test_an_interrupt_leaves_a_checkpoint_too(small, parts, tmp_path, monkeypatch):
    crash_at(monkeypatch, 2, KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        train(*small, *parts, tmp_path, OPTIONS)
    assert last_checkpoint(tmp_path).endswith("checkpoint-1")


def test_a_checkpoint_cut_off_while_it_was_written_is_passed_over(small, parts, tmp_path):
    train(*small, *parts, tmp_path, OPTIONS)
    assert last_checkpoint(tmp_path).endswith("checkpoint-4")
    (tmp_path / "checkpoints" / "checkpoint-4" / "trainer_state.json").unlink()
    assert last_checkpoint(tmp_path).endswith("checkpoint-2")
    assert last_checkpoint(tmp_path / "elsewhere") is None


def test_runs_are_not_overwritten_and_not_mixed(small, parts, rows, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="holds no checkpoint to resume from; train without --resume"):
        train(*small, *parts, tmp_path, OPTIONS, resume=True)
    with monkeypatch.context() as patch:
        crash_at(patch, 2)
        with pytest.raises(Crash):
            train(*small, *parts, tmp_path, OPTIONS)
    with pytest.raises(ValueError, match="already holds a run; resume it"):
        train(*small, *parts, tmp_path, OPTIONS)
    with pytest.raises(ValueError, match="cannot be resumed: its held-out rows are others"):
        train(*small, *split_rows(rows, held_out=0.25, seed=1), tmp_path, OPTIONS, resume=True)


def test_too_few_rows(small, parts, tmp_path):
    with pytest.raises(ValueError, match="held_out has 1 row; expected at least two"):
        train(*small, parts[0], parts[1][:1], tmp_path, OPTIONS)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"epochs": 0}, "epochs is 0; expected at least 1"),
        ({"batch_size": 1}, "batch_size is 1; expected at least 2"),
        ({"learning_rate": math.nan}, "learning_rate is nan; expected a number above 0"),
    ],
)
def test_impossible_options(option, message):
    with pytest.raises(ValueError, match=message):
        TrainingOptions(**option)


def test_batches_are_arguments_of_the_model(small, rows):
    model, processor = small
    collate = PairCollator(processor)
    dataset = TableDataset(rows, processor)
    batch = collate([dataset[index] for index in (0, 1, 2)])
    assert torch.equal(batch["report_ids"], torch.tensor([text_id(row.report) for row in rows[:3]]))
    whole = processor(images=[row.image for row in rows[:3]], text=[row.report for row in rows[:3]])
    for name, values in whole.items():
        assert torch.equal(batch[name], values), name
    assert math.isfinite(model(**batch).loss.item())
    assert "report_ids" not in collate([TableDataset(rows, processor, group_equal_texts=False)[0]])


def test_no_reports_no_vocabulary():
    with pytest.raises(ValueError, match="reports is empty"):
        small_model([])


def test_loss_figure_draws_both_curves(tmp_path):
    history = [{"epoch": 1.0, "loss": 3.0}, {"epoch": 1.0, "eval_loss": 4.0}, {"epoch": 2.0, "loss": 2.0}]
    figure = loss_figure(history)
    lines = {line.get_label(): line.get_xydata().tolist() for line in figure.axes[0].lines}
    assert lines == {"training": [[1, 3], [2, 2]], "held-out patients": [[1, 4]]}
    save_figure(figure, tmp_path / "loss.png")
