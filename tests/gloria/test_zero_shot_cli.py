"""`gloria classify`: predictions with the scores that made them, a table where there are labels, plain errors."""

import csv

import pytest
import torch
from typer.testing import CliRunner

from gloria import GloriaModel, GloriaProcessor
from gloria.cli import app
from gloria.data import read_table
from gloria.prompts import COMPETITION, generated_prompts
from gloria.small import small_model
from gloria.zero_shot import Calibration, ZeroShotClassifier

CHEST = ["Pneumonia", "No Finding"]


def classify(*arguments):
    return CliRunner().invoke(app, ["classify", *(str(argument) for argument in arguments), "--cpu"])


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Eight phantoms, labeled as pneumonia and not by turns; one row has no report, one no image."""
    folder = tmp_path_factory.mktemp("table")
    assert CliRunner().invoke(app, ["phantoms", str(folder), "-n", "8", "--size", "64"]).exit_code == 0
    rows = read_table(folder / "phantoms.csv")
    lines = ["image,report,label"]
    for row in rows:
        label = CHEST[(row.line + 1) % 2]
        lines.append(f'{row.image.relative_to(folder)},"{row.report if row.line > 2 else ""}",{label}')
    (folder / "chest.csv").write_text("\n".join([*lines, "gone.png,Words.,Pneumonia"]))
    return folder / "chest.csv"


@pytest.fixture(scope="module")
def run(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    model, processor = small_model([row.report for row in read_table(table) if row.report])
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def predictions(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_predictions_are_those_of_the_classifier(run, table, tmp_path):
    result = classify(run, table, "--out", tmp_path / "new" / "out.csv", "--form", "paper", "--ensemble", "mean")
    assert result.exit_code == 0, result.output
    assert f"{table}, line 10: the image {table.parent / 'gone.png'} does not exist" in result.output
    assert "skipping 1 bad row of 9" in result.output  # and not the row without a report, which needs none here
    classifier = ZeroShotClassifier(
        GloriaModel.from_pretrained(run),
        GloriaProcessor.from_pretrained(run),
        # In the order in which the labels come.
        generated_prompts(CHEST[::-1], count=5, seed=0),
        form="paper",
        ensemble="mean",
    )
    rows = read_table(table)[:8]
    expected = classifier.scores([row.image for row in rows])
    written = predictions(tmp_path / "new" / "out.csv")
    assert list(written[0]) == ["image", "label", "predicted", "score No Finding", "score Pneumonia"]
    scores = torch.tensor([[float(line[f"score {name}"]) for name in classifier.classes] for line in written])
    assert torch.equal(scores, expected)
    for row, line, best in zip(rows, written, expected.argmax(1).tolist(), strict=True):
        assert (line["image"], line["label"]) == (str(row.image), row.label)
        assert line["predicted"] == classifier.classes[best]
    right = sum(line["label"] == line["predicted"] for line in written)
    assert "on the 8 images with a label" in result.output
    assert result.output.rstrip().endswith(f"accuracy over all classes: {100 * right / 8:.1f}")


def test_without_labels_there_is_no_table(run, table, tmp_path):
    plain = tmp_path / "plain.csv"
    plain.write_text("image,report\n" + "".join(f"{row.image},\n" for row in read_table(table)[:3]))
    result = classify(run, plain, "--out", tmp_path / "out.csv")
    assert result.exit_code == 0, result.output
    assert "in percent" not in result.output
    assert list(predictions(tmp_path / "out.csv")[0])[3:] == [f"score {name}" for name in COMPETITION]
    named = classify(run, plain, "--out", tmp_path / "out.csv", "--prompts", "name", "--class", "a", "--class", "b")
    assert named.exit_code == 0, named.output
    assert list(predictions(tmp_path / "out.csv")[0])[3:] == ["score a", "score b"]


def test_prompts_from_files(run, table, tmp_path):
    (tmp_path / "mine.yaml").write_text("no finding: [clear lungs]\npneumonia: [pneumonia, opacity]\nother: [other]")
    result = classify(run, table, "--out", tmp_path / "out.csv", "--prompts", tmp_path / "mine.yaml")
    assert result.exit_code == 0, result.output
    # Labels count as the class is spelled.
    assert {line["label"] for line in predictions(tmp_path / "out.csv")} == {"no finding", "pneumonia"}
    (tmp_path / "reports.csv").write_text("image,report,label\n,Clear.,No Finding\n,Opacity.,Pneumonia\n")
    result = classify(run, table, "--out", tmp_path / "out.csv", "--prompts", tmp_path / "reports.csv", "--count", 1)
    assert result.exit_code == 0, result.output
    assert list(predictions(tmp_path / "out.csv")[0])[3:] == ["score No Finding", "score Pneumonia"]


def test_tables_need_no_column_that_is_not_read(run, table, tmp_path):
    images = [row.image for row in read_table(table)[:3]]
    given = ["Edema=1; Pneumonia=0", "Edema=1; Pneumonia=1", "Edema=-1; Hernia=1; pneumonia=1"]
    lines = [f"{image},{labels}" for image, labels in zip(images, given, strict=True)]
    (tmp_path / "images.csv").write_text("\n".join(["image,labels", *lines]))
    (tmp_path / "prompts.jsonl").write_text(
        '{"report": "Fluid.", "label": "Edema"}\n{"report": "Opacity.", "label": "Pneumonia"}\n'
    )
    result = classify(
        run, tmp_path / "images.csv", "--out", tmp_path / "out.csv", "--prompts", tmp_path / "prompts.jsonl"
    )
    assert result.exit_code == 0, result.output
    # The one class that is present, of those that are told apart; the second row has two.
    assert [line["label"] for line in predictions(tmp_path / "out.csv")] == ["Edema", "", "Pneumonia"]
    assert "on the 2 images with a label" in result.output


def test_a_calibration_is_saved_and_serves_again(run, table, tmp_path):
    result = classify(run, table, "--out", tmp_path / "first.csv", "--calibrate", table)
    assert result.exit_code == 0, result.output
    saved = tmp_path / "first.calibration.json"
    assert f"calibrated on 8 images; wrote {saved}" in result.output
    assert Calibration.load(saved).source == str(table)
    again = classify(run, table, "--out", tmp_path / "again.csv", "--calibrate", saved)
    assert again.exit_code == 0, again.output
    assert predictions(tmp_path / "again.csv") == predictions(tmp_path / "first.csv")
    scores = torch.tensor([float(line["score Pneumonia"]) for line in predictions(tmp_path / "first.csv")])
    assert float(scores.mean()) == pytest.approx(0, abs=1e-3)
    assert float(scores.std(correction=0)) == pytest.approx(1, abs=1e-3)


def test_what_is_read_is_not_written_over(run, table, tmp_path):
    for name, option in (("calibrate.csv", "--calibrate"), ("prompts.csv", "--prompts"), ("table.csv", None)):
        out = tmp_path / name
        out.write_text(table.read_text())
        read = [run, table, option, out] if option else [run, out]
        result = classify(*read, "--out", tmp_path / "." / name)
        assert result.exit_code == 2
        assert result.output == f"gloria: --out is {out}, a file that is read; name another file\n"
        assert out.read_text() == table.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompts", "words"], "--prompts is 'words'; expected 'name', 'generated', a YAML file or a table"),
        (["--prompts", "TABLE"], "chest.csv, line 2: the image is one of those to classify (8 are), whose reports"),
        (["--prompts", "none.yaml"], "none.yaml does not exist"),
        (["--class", "Pneumonia"], "line 2: the label 'No Finding' is none of the classes 'Pneumonia'"),
        (["--class", "Fracture"], "the vocabulary of the package has no class 'Fracture'"),
        (["--class", "Fracture"], "take their names as prompts: --prompts FILE.yaml, or --prompts name\n"),
        (["--calibrate", "none.json"], "none.json"),
    ],
)
def test_mistakes_end_in_a_line(run, table, tmp_path, arguments, message):
    given = [table if argument == "TABLE" else argument for argument in arguments]
    result = classify(run, table, "--out", tmp_path / "out.csv", *given)
    assert result.exit_code == 2
    assert result.output.splitlines()[-1].startswith("gloria: ")
    assert message in result.output
    assert not (tmp_path / "out.csv").exists()
