"""Fine-tuning: the probe is at its optimum, fractions and frozen weights hold, and every mistake is a line."""

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline
from typer.testing import CliRunner

from gloria import GloriaConfig, GloriaForImageClassification, GloriaForSemanticSegmentation
from gloria.cli import app
from gloria.data import Row, draw_fraction, read_table, write_phantoms, write_table
from gloria.finetuning import FinetuningOptions, finetune_classifier, finetune_segmenter, image_vectors
from gloria.finetuning.probe import fit_classifier
from gloria.finetuning.targets import classes_of

QUICK = FinetuningOptions(steps=4, batch_size=4, learning_rate=1e-3, cpu=True)


def gloria(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def run(model, processor, tmp_path, no_network):
    model.save_pretrained(tmp_path / "run")
    processor.save_pretrained(tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture(scope="module")
def blocks(tmp_path_factory):
    """Sixteen pictures of noise, every other one with a bright block, which its mask outlines."""
    folder, random = tmp_path_factory.mktemp("blocks"), np.random.default_rng(0)
    rows = []
    for number in range(16):
        pixels, mask = random.integers(0, 60, (60, 80), dtype=np.uint8), np.zeros((60, 80), bool)
        if number % 2:
            y, x = random.integers(10, 25), random.integers(15, 40)
            mask[y : y + 25, x : x + 25] = True
            pixels[mask] += 150
        image, outline = folder / f"{number}.png", folder / f"{number}-mask.png"
        Image.fromarray(pixels).save(image)
        Image.fromarray(mask).save(outline)
        seen = number % 2
        rows.append(Row(number + 2, image, "", f"p{number}", label="ab"[seen], mask=outline, labels={"Block": seen}))
    return rows


def test_the_probe_is_where_its_loss_has_no_slope(config):
    torch.manual_seed(0)
    vectors = 3 * torch.randn(20, 16) + 5
    vectors[:, 3] = 1  # a channel that says nothing
    labels = (vectors[:, :2] + torch.randn(20, 2) > 5).float()
    labels[0, 1] = float("nan")
    head = GloriaForImageClassification(GloriaConfig.from_dict(config.to_dict() | {"id2label": {0: "a", 1: "b"}}))
    fit_classifier(head, vectors, labels)
    head.double()
    vectors = vectors.double()
    spread = vectors.std(0, correction=0)
    weight = head.classifier.weight * spread
    loss = head.loss(head.classifier(vectors), labels) + weight.square().sum() / (2 * len(vectors))
    slopes = torch.autograd.grad(loss, list(head.classifier.parameters()))
    assert max(float(each.abs().max()) for each in slopes) < 1e-5
    assert head.classifier.weight[:, 3].abs().max() == 0
    assert head.loss(head.classifier(vectors), labels).item() < 0.6


def test_a_linear_probe_leaves_the_encoder_as_it_is_and_asks_for_an_image_once(run, model, blocks, tmp_path):
    known = {}
    out = tmp_path / "out"
    metrics = finetune_classifier(run, blocks[:10], blocks[10:], out=out, vectors=known)
    assert metrics["auroc"]["macro"] == metrics["auroc"]["classes"]["Block"] > 0.9
    assert (metrics["training_rows"], metrics["held_out_rows"], metrics["frozen"]) == (10, 6, True)
    assert json.loads((out / "metrics.json").read_text()) == metrics
    assert len(known) == 16
    again = finetune_classifier(run, blocks[:10], blocks[10:], vectors={**known})
    assert again == metrics
    encoder = model.image_encoder.state_dict()
    kept = GloriaForImageClassification.from_pretrained(out).image_encoder.state_dict()
    assert all(torch.equal(values, encoder[name]) for name, values in kept.items())
    found = pipeline("image-classification", str(out), device="cpu")(str(blocks[11].image))
    assert [each["label"] for each in found] == ["Block"]
    assert 0.5 < found[0]["score"] < 1


def test_classes_that_exclude_one_another_are_those_of_the_label(run, blocks):
    alone = [replace(row, labels={}) for row in blocks]
    metrics = finetune_classifier(run, alone[:10], alone[10:])
    assert metrics["exclusive"]
    assert metrics["auroc"]["macro_of"] == ["a", "b"]
    assert metrics["auroc"]["macro"] > 0.9


def test_all_weights_are_trained_if_not_frozen_and_a_seed_repeats_them(run, model, blocks, tmp_path):
    metrics = [
        finetune_classifier(run, blocks[:8], blocks[8:], frozen=False, options=QUICK, out=tmp_path / str(number))
        for number in range(2)
    ]
    assert metrics[0] == metrics[1]
    weights, same = ((tmp_path / str(number) / "model.safetensors").read_bytes() for number in range(2))
    assert weights == same
    trained = GloriaForImageClassification.from_pretrained(tmp_path / "0").image_encoder.state_dict()
    before = model.image_encoder.state_dict()
    moved = [name for name, values in trained.items() if not torch.equal(values, before[name])]
    assert any(name.endswith("running_mean") for name in moved)
    assert any(name.endswith("weight") for name in moved)


def test_a_fraction_of_the_labels_is_the_one_that_is_drawn(run, blocks, monkeypatch):
    taken = []
    original = image_vectors

    def noted(model, image_processor, rows, known):
        taken.append([row.line for row in rows])
        return original(model, image_processor, rows, known)

    monkeypatch.setattr("gloria.finetuning.classification.image_vectors", noted)
    metrics = finetune_classifier(run, blocks[:12], blocks[12:], labels=0.5, seed=3)
    assert taken[0] == [row.line for row in draw_fraction(blocks[:12], 0.5, 3)]
    assert metrics["training_rows"] == len(taken[0]) == 6


def test_a_random_start_has_the_shape_of_the_run_and_none_of_its_weights(run, blocks, tmp_path, model):
    finetune_classifier(run, blocks[:10], blocks[10:], random_start=True, seed=5, out=tmp_path / "out")
    started = GloriaForImageClassification.from_pretrained(tmp_path / "out").image_encoder.state_dict()
    before = model.image_encoder.state_dict()
    convolutions = [name for name in before if before[name].dim() == 4]
    assert convolutions
    assert not any(torch.equal(started[name], before[name]) for name in convolutions)


def test_a_segmenter_learns_a_block_and_answers_in_pixels_of_the_image(run, blocks, tmp_path):
    options = FinetuningOptions(steps=40, batch_size=4, learning_rate=1e-2, cpu=True)
    metrics = finetune_segmenter(run, blocks[:12], blocks[12:], finding="block", out=tmp_path / "out", options=options)
    assert metrics["dice"]["dice_of_positives"] > 0.6
    assert metrics["dice"]["positives"] == 2
    assert metrics["dice"]["nothing_anywhere"]["dice_of_positives"] == 0
    segments = pipeline("image-segmentation", str(tmp_path / "out"), device="cpu")(str(blocks[13].image))
    masks = {each["label"]: np.asarray(each["mask"]) > 0 for each in segments}
    assert set(masks) == {"background", "block"}
    true = np.asarray(Image.open(blocks[13].mask)) > 0
    assert 2 * (masks["block"] & true).sum() / (masks["block"].sum() + true.sum()) > 0.6


def test_a_frozen_encoder_is_as_it_was_under_a_segmenter(run, model, blocks, tmp_path):
    finetune_segmenter(run, blocks[:8], blocks[8:], frozen=True, options=QUICK, out=tmp_path / "out")
    kept = GloriaForSemanticSegmentation.from_pretrained(tmp_path / "out").image_encoder.state_dict()
    before = model.image_encoder.state_dict()
    assert all(torch.equal(values, before[name]) for name, values in kept.items())


def test_what_labels_leave_open_is_unknown():
    rows = [
        Row(2, None, "", labels={"a": 1, "b": 0}),
        Row(3, None, "", labels={"a": 0, "b": -1}),
        Row(4, None, "", labels={"b": 1}),
    ]
    classes = classes_of(rows)
    assert (classes.names, classes.exclusive) == (["a", "b"], False)
    truth = classes.truth(rows)
    assert torch.equal(truth.isnan(), torch.tensor([[False, False], [False, True], [True, False]]))
    assert torch.equal(truth.nan_to_num(9), torch.tensor([[1.0, 0.0], [0.0, 9.0], [9.0, 1.0]]))


@pytest.mark.parametrize(
    ("change", "labels", "message"),
    [
        ({"labels": {}, "label": ""}, 1, "none of the 12 rows to train on has a label; expected a column labels"),
        ({"labels": {}, "label": "a"}, 1, "every row to train on has the label 'a'; expected at least two classes"),
        ({"labels": {"Block": 1}}, 1, "none of the 12 rows to train on lacks Block; take more rows"),
        ({}, 0.01, "the draw of 1 of 12 rows has none with"),
        ({}, 1.5, "labels is 1.5; expected a fraction above 0 and up to 1"),
    ],
)
def test_labels_that_tell_nothing_apart_are_refused(run, blocks, change, labels, message):
    rows = [replace(row, **change) for row in blocks]
    with pytest.raises(ValueError, match=message):
        finetune_classifier(run, rows[:12], rows[12:], labels=labels)


def test_masks_that_do_not_fit_are_refused(run, blocks, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="none of the 12 rows of training has a mask; expected a column mask"):
        finetune_segmenter(run, [replace(row, mask=None) for row in blocks[:12]], blocks[12:], options=QUICK)
    with pytest.raises(ValueError, match="labels is 2; expected a fraction above 0 and up to 1"):
        finetune_segmenter(run, blocks[:12], blocks[12:], labels=2, options=QUICK)
    Image.new("L", (40, 30)).save(tmp_path / "small.png")
    # Before training, of the rows to train on and of those to hold out.
    monkeypatch.setattr("gloria.finetuning.segmentation.train_head", lambda *_: pytest.fail("trained"))
    for number in (0, 15):
        rows = list(blocks)
        rows[number] = replace(blocks[number], mask=tmp_path / "small.png")
        size = f"line {number + 2}: the mask .*small.png has 40 x 30 pixels and the image 80 x 60"
        with pytest.raises(ValueError, match=size):
            finetune_segmenter(run, rows[:12], rows[12:], options=QUICK)
        rows[number] = replace(blocks[number], mask=tmp_path / "gone.png")
        with pytest.raises(ValueError, match=rf"line {number + 2}: .*gone\.png"):
            finetune_segmenter(run, rows[:12], rows[12:], options=QUICK)


def test_folders_without_an_image_encoder_are_refused(run, blocks, tmp_path, text_config, model):
    with pytest.raises(ValueError, match="holds no trained model; expected the run folder that `gloria train` wrote"):
        finetune_classifier(tmp_path / "nowhere", blocks[:10], blocks[10:])
    text_config.save_pretrained(tmp_path / "text")
    with pytest.raises(ValueError, match="holds a model of the type bert; expected the run folder"):
        finetune_classifier(tmp_path / "text", blocks[:10], blocks[10:])
    rest = {name: values for name, values in model.state_dict().items() if not name.startswith("image_encoder.")}
    model.save_pretrained(run, state_dict=rest)
    with pytest.raises(ValueError, match=r"run lacks \d+ weights of the image encoder, image_encoder\..* for instance"):
        finetune_segmenter(run, blocks[:10], blocks[10:], options=QUICK)


@pytest.mark.parametrize(("name", "value"), [("steps", 0), ("batch_size", 0), ("learning_rate", 0.0)])
def test_impossible_options_are_named(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        FinetuningOptions(**{name: value})


def test_the_commands_train_measure_and_refuse(run, blocks, tmp_path):
    table, parts = tmp_path / "table.csv", ["train"] * 12 + ["test"] * 4
    rows = [replace(row, split=part, report="A report.") for row, part in zip(blocks, parts, strict=True)]
    write_table(table, rows)
    out = tmp_path / "classifier"
    result = gloria("finetune", "classify", run, table, "--out", out, "--labels", 0.5, "--cpu")
    assert result.exit_code == 0, result.output
    assert "trained on 6 of 12 rows, measured on 4" in result.output
    assert "mean over 1 classes" in result.output
    again = gloria("finetune", "classify", run, table, "--out", out, "--cpu")
    assert (again.exit_code, again.output) == (2, f"gloria: {out} already holds a model; name another folder\n")
    retrieval = gloria("attend", out, "--out", tmp_path / "pictures", "--table", table, "--line", 2, "--cpu")
    assert retrieval.exit_code == 2
    assert "holds a GloriaForImageClassification; expected the run folder that `gloria train` wrote" in retrieval.output
    steps = ["--steps", 2, "--batch-size", 4, "--cpu"]
    result = gloria("finetune", "segment", run, table, "--out", tmp_path / "segmenter", "--finding", "block", *steps)
    assert result.exit_code == 0, result.output
    assert "on 4 held-out images, 2 of them with the finding" in result.output
    assert "nothing anywhere" in result.output


def test_the_page_runs_as_it_stands_but_for_its_size(run, blocks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run.rename(tmp_path / "first")
    (tmp_path / "runs").mkdir()
    (tmp_path / "first").rename(tmp_path / "runs" / "first")
    reported = [replace(row, report=f"Block {row.line}." if row.labels["Block"] else "Clear lungs.") for row in blocks]
    for name in ("labels.csv", "masks.csv", "reports.csv"):
        write_table(name, reported)
    write_phantoms("runs/phantoms", 12, size=32)
    page = (Path(__file__).parents[2] / "docs" / "downstream.md").read_text(encoding="utf-8")
    commands = re.findall(r"^gloria (.*)$", page, flags=re.MULTILINE)
    assert len(commands) == 5
    for command in commands:
        smaller = [*shlex.split(re.sub(r"--labels \S+", "--labels 0.5", command)), "--batch-size", 4, "--cpu"]
        smaller += ["--epochs", 1] if smaller[0] == "train" else ["--steps", 2]
        result = gloria(*smaller)
        assert result.exit_code == 0, f"{command}: {result.output}"
    names: dict[str, object] = {}
    exec("\n".join(re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)), names)
    assert names["classify"](str(blocks[1].image))[0]["label"] == "Block"
    assert {"background", "pneumothorax"} >= {each["label"] for each in names["segment"](str(blocks[1].image))}
    assert {name for row in read_table("pneumothorax.csv") for name in row.labels} == {"Pneumothorax"}
    assert names["model"].config.pos_weight == [4.0, 9.0]
    config = json.loads((tmp_path / "runs" / "vse" / "config.json").read_text())
    assert (config["global_loss"], config["local_weight"]) == ("hinge", 0.0)
