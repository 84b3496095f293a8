"""Recipes: the released one is what the released code ran, a call's own options win, mistakes are named."""

import json

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from gloria.cli import app
from gloria.data import write_phantoms
from gloria.recipes import available_recipes, load_recipe


def gloria(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_phantoms(tmp_path_factory.mktemp("phantoms"), 12, size=64)


def test_every_recipe_sets_options_that_the_command_has():
    assert "released" in available_recipes()
    options = {each.name for each in command_parameters()}
    for name in available_recipes():
        assert load_recipe(name, options)


def command_parameters():
    return get_command(app).commands["train"].params


def test_the_released_recipe_is_followed_and_what_the_call_says_wins(table, tmp_path):
    call = ["--recipe", "released", "--preset", "small", "--epochs", 1, "--batch-size", 6, "--workers", 0, "--no-bf16"]
    result = gloria("train", table, "--out", tmp_path, "--held-out", 0.5, "--cpu", *call)
    assert result.exit_code == 0, result.output
    options = json.loads((tmp_path / "metrics.json").read_text())["options"]
    released = {"learning_rate": 5e-5, "optimizer": "adam", "beta1": 0.5, "weight_decay": 1e-6, "schedule": "plateau"}
    released |= {"max_grad_norm": 0.25, "early_stopping": 10, "best_by": "loss", "group_equal_reports": False}
    assert {name: options[name] for name in released} == released
    assert (options["epochs"], options["batch_size"], options["workers"], options["bf16"]) == (1, 6, 0, False)


def test_the_released_recipe_names_its_encoders(table, tmp_path, no_network):
    """They would be fetched, which is refused here."""
    call = ["train", table, "--out", tmp_path, "--recipe", "released", "--workers", 0, "--cpu"]
    for more, asked_for in (([], "emilyalsentzer/Bio_ClinicalBERT"), (["--text-encoder", "no/such"], "no/such")):
        result = gloria(*call, *more)
        assert result.exit_code != 0
        assert asked_for in result.output + str(result.exception)


def test_a_recipe_of_ones_own(table, tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("preset: small\nepochs: 1\nbatch_size: 4\nmicro_batch_size: 2\nlearning_rate: 1e-4\ncpu: true\n")
    result = gloria("train", table, "--out", tmp_path / "run", "--recipe", recipe)
    assert result.exit_code == 0, result.output
    options = json.loads((tmp_path / "run" / "metrics.json").read_text())["options"]
    assert (options["batch_size"], options["micro_batch_size"], options["learning_rate"]) == (4, 2, 1e-4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch: 3", "sets epoch; expected all_negatives, bad_files, bad_rows, batch_size, best_by,"),
        ("out: elsewhere", "sets out; expected"),
        ("- epochs", "holds list; expected lines of `option: value`"),
        ("epochs: [", "is not valid YAML"),
        ("epochs: many", "Invalid value for '--epochs'"),
        ("epochs: 0", "Invalid value for '--epochs'"),
    ],
)
def test_mistakes_in_a_recipe(table, tmp_path, text, message):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(text)
    result = gloria("train", table, "--out", tmp_path / "run", "--recipe", recipe, "--preset", "small")
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())


def test_no_such_recipe(table, tmp_path):
    result = gloria("train", table, "--out", tmp_path, "--recipe", "none.yaml")
    assert result.exit_code == 2
    assert "gloria: recipe is 'none.yaml'; expected 'released' or a YAML file" in result.output
