"""The command: every part runs from a shell's arguments, and every mistake ends in one line and exit code 2."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from gloria import GloriaProcessor
from gloria.cli import app
from gloria.data import read_table, write_table
from gloria.training import last_checkpoint

SMALL = ["--preset", "small", "--epochs", "1", "--batch-size", "6", "--cpu"]


def gloria(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms")
    result = gloria("phantoms", folder, "-n", 12, "--size", 64)
    assert result.exit_code == 0, result.output
    return folder / "phantoms.csv"


@pytest.fixture(scope="module")
def run(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    result = gloria("train", table, "--out", folder, "--held-out", 0.5, *SMALL)
    assert result.exit_code == 0, result.output
    assert "6 rows to train on, 6 held out" in result.output
    assert "image to text" in result.output
    return folder


@pytest.fixture
def broken(table, tmp_path):
    """The table with a missing image on line 14 and an empty report on line 15."""
    text = table.read_text()
    folder = table.parent
    path = tmp_path / "broken.csv"
    path.write_text(
        text.replace("images/", f"{folder}/images/").replace(",masks/", f",{folder}/masks/")
        + "gone.png,Words.,p,nodule,nodule,1,,\n"
        + f"{folder}/images/00000.png,,p,nodule,nodule,1,,\n"
    )
    return path


def test_phantoms_are_as_many_as_asked_for(table):
    assert len(read_table(table)) == 12


def test_validate_data_passes_a_good_table(table):
    result = gloria("validate-data", table)
    assert (result.exit_code, result.output) == (0, "12 rows, 12 good, 0 bad\n")


def test_validate_data_names_bad_rows_and_fails(broken):
    result = gloria("validate-data", broken)
    assert result.exit_code == 1
    assert f"{broken}, line 14: the image {broken.parent / 'gone.png'} does not exist" in result.output
    assert f"{broken}, line 15: the report is empty" in result.output
    assert f"{broken}, line 15: the image is that of line 2, with another report" in result.output
    assert result.output.endswith("14 rows, 12 good, 2 bad\n")


def test_validate_data_names_masks_that_are_not_there(table):
    masked = table.with_name("masked.csv")
    masked.write_text(table.read_text().replace("masks/00003.png", "masks/gone.png"))
    result = gloria("validate-data", masked)
    assert result.exit_code == 1
    assert f"line 5: the mask {table.parent / 'masks' / 'gone.png'} does not exist" in result.output


def test_train_refuses_bad_rows_unless_told_to_skip_them(broken, tmp_path):
    refused = gloria("train", broken, "--out", tmp_path / "run", *SMALL)
    assert refused.exit_code == 2
    assert "line 14: the image" in refused.output
    assert "2 of 14 rows are bad; fix them, or leave them out with --bad-rows skip" in refused.output
    assert not (tmp_path / "run").exists()
    skipped = gloria("train", broken, "--out", tmp_path / "run", "--bad-rows", "skip", "--held-out", 0.5, *SMALL)
    assert skipped.exit_code == 0, skipped.output
    assert "skipping 2 bad rows of 14" in skipped.output
    assert "6 rows to train on, 6 held out" in skipped.output


def test_train_on_encoders_from_local_directories(table, encoders, tmp_path):
    cached = ["--cache", tmp_path / "cache", "--text", "sentence"]
    result = gloria("train", table, "--out", tmp_path / "run", *encoders, *cached)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "run" / "model.safetensors").exists()
    assert list((tmp_path / "cache").glob("*/*.npy"))


def test_the_small_preset_sees_as_many_pixels_as_it_is_told(table, tmp_path):
    given = ["train", table, "--out", tmp_path / "run", "--held-out", 0.5, *SMALL]
    result = gloria(*given, "--image-size", 64)
    assert result.exit_code == 0, result.output
    assert GloriaProcessor.from_pretrained(tmp_path / "run").image_processor.crop_size == 64
    other = gloria(*given, "--resume")
    assert "the run has image_size '64', not '160'; image_size cannot change within a run" in other.output
    assert gloria(*given, "--resume", "--image-size", 64).exit_code == 0


def test_encoders_that_cannot_be_loaded_are_named(table, encoders, tmp_path, no_network):
    for option in ("--image-encoder", "--text-encoder"):
        result = gloria("train", table, "--out", tmp_path / "run", *encoders, option, "runs/nope")
        assert result.exit_code == 2
        assert f"gloria: {option} is 'runs/nope': no folder here, and it could not be loaded from the" in result.output
    result = gloria("train", table, "--out", tmp_path / "run", *encoders, "--image-encoder", table.parent)
    assert f"gloria: --image-encoder is '{table.parent}': this folder could not be loaded: " in result.output


def test_shards_are_trained_on_with_the_rows_held_out_beside_them(table, encoders, tmp_path):
    folder, out = tmp_path / "shards", tmp_path / "run"
    assert gloria("shards", table, "--out", folder, "--shards", 2, "--held-out", 0.25).exit_code == 0
    result = gloria("train", folder, "--out", out, *encoders)
    assert result.exit_code == 0, result.output
    assert "9 rows to train on, 3 held out" in result.output
    held = {row.image.name for row in read_table(folder / "held_out.csv")}
    assert held == {row.image.name for row in read_table(out / "held_out.csv")}


def test_shards_have_no_vocabulary_and_other_folders_are_none(table, tmp_path):
    assert gloria("shards", table, "--out", tmp_path / "shards", "--shards", 2).exit_code == 0
    refused = gloria("train", tmp_path / "shards", "--out", tmp_path / "run", *SMALL)
    assert refused.exit_code == 2
    assert "--preset small makes its vocabulary of a table's reports; give the table, not shards" in refused.output
    other = gloria("train", tmp_path, "--out", tmp_path / "run", *SMALL)
    assert f"{tmp_path} is a folder without shards.json; expected a table, or finished" in other.output


def test_retrieve_images_for_a_text(run, table):
    result = gloria("retrieve", run, table, "--query", "Left pleural effusion.", "-k", 3, "--by", "local", "--cpu")
    assert result.exit_code == 0, result.output
    ranked = [line.split() for line in result.stdout.splitlines()]
    assert [line[0] for line in ranked] == ["1", "2", "3"]
    scores = [float(line[1]) for line in ranked]
    assert scores == sorted(scores, reverse=True)
    assert all(line[2].endswith(".png") for line in ranked)


def test_retrieve_reports_for_an_image(run, table):
    image = read_table(table)[0].image
    result = gloria("retrieve", run, table, "--image", image, "-k", 50, "--cpu")
    assert result.exit_code == 0, result.output
    assert len(result.stdout.splitlines()) == 12


def test_retrieve_measures_a_table_without_a_query(run):
    result = gloria("retrieve", run, run / "held_out.csv", "-k", 2, "--cpu")
    assert result.exit_code == 0, result.output
    assert "Precision@K in percent on 6 rows" in result.output
    assert "P@2" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["validate-data", "none.csv"], "none.csv does not exist"),
        (["train", "TABLE", "--out", "OUT"], "expected either --preset small, or both --image-encoder and"),
        (["train", "TABLE", "--out", "OUT", "--preset", "large"], "--preset is 'large'; expected 'small'"),
        (["train", "TABLE", "--out", "OUT", *SMALL, "--resume"], "holds no checkpoint to resume from"),
        (["train", "TABLE", "--out", "OUT", *SMALL, "--image-size", "100"], "--image-size is 100; expected a multiple"),
        (["train", "TABLE", "--out", "OUT", *SMALL, "--held-out", "2"], "held_out is 2.0; expected a share"),
        (["retrieve", "OUT", "TABLE"], "holds no trained model; expected the run folder"),
        (["retrieve", "OUT", "TABLE", "--query", " "], "--query is empty; expected some words"),
        (["retrieve", "OUT", "TABLE", "--query", "a", "--image", "b"], "--query and --image are both given"),
    ],
)  # fmt: skip
def test_mistakes_end_in_a_line(table, tmp_path, arguments, message):
    result = gloria(*({"TABLE": table, "OUT": tmp_path / "run"}.get(argument, argument) for argument in arguments))
    assert result.exit_code == 2
    assert result.output.splitlines()[-1].startswith("gloria: ")
    assert message in result.output
    assert "Traceback" not in result.output


def test_an_unreadable_query_image_is_named(run, table, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    result = gloria("retrieve", run, table, "--image", tmp_path / "text.png", "--cpu")
    assert result.exit_code == 2
    assert "text.png cannot be read as an image" in result.output


def test_odd_images_train(tmp_path):
    lines = ["image,report"]
    for number, mode in enumerate(("L", "RGB", "RGBA", "P", "I;16", "1")):
        Image.linear_gradient("L").resize((40 + 30 * number, 50)).convert(mode).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,Report number {number}.")
    (tmp_path / "data.csv").write_text("\n".join(lines))
    result = gloria("train", tmp_path / "data.csv", "--out", tmp_path / "run", "--held-out", 0.4, *SMALL)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_that_is_ended_keeps_others_out_before_and_resumes_after(table, tmp_path, number, status):
    command = [sys.executable, "-m", "gloria", "train", str(table), "--out", str(tmp_path), *SMALL]
    command[command.index("--epochs") + 1] = "1000000"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        while last_checkpoint(tmp_path, verify=False) is None and process.poll() is None:
            time.sleep(0.05)
        second = gloria("train", table, "--out", tmp_path, "--resume", *SMALL)
        assert second.exit_code == 2
        (line,) = second.output.splitlines()
        assert line.startswith(f"gloria: {tmp_path} is being written by process {process.pid} on ")
        process.send_signal(number)
        _, told = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == status
    checkpoint = last_checkpoint(tmp_path)
    assert told.splitlines()[-1] == f"gloria: interrupted; go on from {checkpoint} with --resume"
    assert not (tmp_path / "metrics.json").exists()
    assert not list(tmp_path.rglob("*.partial"))
    step = int(checkpoint.rsplit("-", 1)[1])
    again = ["train", table, "--out", tmp_path, "--resume", *SMALL[:3], step + 2, *SMALL[4:]]
    refused = gloria(*again)
    assert refused.exit_code == 2
    assert f"the run has epochs 1000000, not {step + 2}; resume with the same, or take what is new" in refused.output
    taken = gloria(*again, "--change", "epochs")
    assert taken.exit_code == 0, taken.output
    assert last_checkpoint(tmp_path).endswith(f"-{step + 2}")
    assert f'"step": {step}' in (tmp_path / "metrics.json").read_text()


def test_what_a_model_was_made_of_is_compared_when_it_is_resumed(table, encoders, tmp_path):
    given = ["train", table, "--out", tmp_path / "run", *encoders]
    assert gloria(*given).exit_code == 0
    for option, value in (("--image-size", 96), ("--image-encoder", tmp_path / "other")):
        other = gloria(*given, "--resume", option, value)
        assert other.exit_code == 2
        assert f"the run has {option[2:].replace('-', '_')} " in other.output
        assert "cannot change within a run" in other.output
    unknown = gloria(*given, "--resume", "--change", "image-size")
    assert "change names image_size; expected any of epochs, learning_rate" in unknown.output


def test_the_page_on_runs_runs(table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_table(tmp_path / "reports.csv", read_table(table))
    page = (Path(__file__).parents[2] / "docs" / "runs.md").read_text()
    (commands,) = re.findall(r"```sh\n(.*?)```", page, flags=re.DOTALL)
    for number, command in enumerate(commands.splitlines()):
        words = command.split()
        assert words[:2] == ["gloria", "train"]
        result = gloria(*words[1:], "--cpu")
        assert result.exit_code == 0, result.output
        assert (tmp_path / "runs" / "first" / "metrics.json").read_text().count('"epochs"') == (1, 1, 2)[number]
