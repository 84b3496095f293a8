"""The model card: metadata that the hub reads, and figures that are those of the run."""

import json
from copy import deepcopy
from dataclasses import replace

import pytest
from huggingface_hub import ModelCard
from typer.testing import CliRunner

from gloria.card import score_name, write_card
from gloria.cli import app
from gloria.modeling import GloriaModel
from gloria_ops import LocalScore

METRICS = {
    "options": {"epochs": 3, "batch_size": 8, "learning_rate": 5e-5, "seed": 4},
    "training_rows": 80,
    "held_out_rows": 20,
    "precision": {
        direction: {"chance": 0.1, **{f"{by} P@{k}": value / k for by in ("global", "local", "both") for k in (1, 5)}}
        for direction, value in (("image to text", 0.5), ("text to image", 0.75))
    },
}


@pytest.fixture
def folder(model, processor, tmp_path, no_network):
    model.save_pretrained(tmp_path / "effusions")
    processor.save_pretrained(tmp_path / "effusions")
    return tmp_path / "effusions"


def test_figures_and_metadata(folder):
    (folder / "metrics.json").write_text(json.dumps(METRICS))
    path = write_card(folder, "cc-by-nc-4.0", data="Chest phantoms", notes="Only *phantoms*.")
    assert path == folder / "README.md"
    card = ModelCard.load(path)
    assert card.data.license == "cc-by-nc-4.0"
    assert card.data.library_name == "gloria-ops"
    assert card.data.pipeline_tag == "zero-shot-image-classification"
    assert card.data.model_name == "effusions"
    results = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert len(results) == 12
    assert results["Precision@5, image to text, ranked by global"] == 0.1
    assert results["Precision@1, text to image, ranked by both"] == 0.75
    assert {each.dataset_name for each in card.data.eval_results} == {"Chest phantoms, 20 held-out rows"}
    for line in (
        "# effusions",
        "| local score | `LocalScore.released()` |",
        "| image encoder | resnet, regions from stage3 |",
        "| text encoder | bert, sum of the last 4 layers |",
        "Only *phantoms*.",
    ):
        assert line in card.text.splitlines()
    assert (
        "Trained on 80 pairs of Chest phantoms, for 3 epochs in batches of 8, learning rate 5e-05, seed 4." in card.text
    )
    assert "text to image  both           75.0    15.0     10.0" in card.text


def test_scales_that_were_learned_are_shown_as_they_are_now(model, processor, tmp_path):
    config = deepcopy(model.config)
    config.learnable_attention_scale = True
    learning = GloriaModel(config)
    learning.local_contrast.attention_scale.log_scale.data.fill_(2.0)
    learning.save_pretrained(tmp_path / "learning")
    processor.save_pretrained(tmp_path / "learning")
    write_card(tmp_path / "learning", "other")
    (line,) = (line for line in (tmp_path / "learning" / "README.md").read_text().splitlines() if "local score" in line)
    assert "attention_scale=7.38905" in line


def test_without_metrics_nothing_is_claimed(folder):
    result = CliRunner().invoke(app, ["card", str(folder), "--license", "other", "--name", "Converted <b>"])
    assert (result.exit_code, result.output) == (0, f"wrote {folder / 'README.md'}\n")
    card = ModelCard.load(folder / "README.md")
    assert "No evaluation stands beside these weights." in card.text
    assert "Precision" not in card.text
    assert card.data.eval_results is None
    assert "# Converted <b>" in card.text.splitlines()  # Markdown, not HTML: names are not escaped twice


def test_scores_are_named():
    paper = LocalScore.paper(tau2=0.1, tau3=0.3)
    assert score_name(paper) == "LocalScore.paper(tau2=0.1, tau3=0.3)"
    for name in ("released", "maxsim", "scan_t2i", "scan_i2t"):
        assert score_name(getattr(LocalScore, name)()) == f"LocalScore.{name}()"
    other = replace(LocalScore.released(), attention_scale=9.0)
    assert score_name(other) == str(other)


@pytest.mark.parametrize("license", ["Apache 2.0", "", "MIT", "-"])
def test_a_license_must_be_an_identifier(folder, license):
    with pytest.raises(ValueError, match=f"license is '{license}'; expected an identifier as the hub lists them"):
        write_card(folder, license)


def test_no_model_no_card(tmp_path):
    result = CliRunner().invoke(app, ["card", str(tmp_path), "--license", "mit"])
    assert result.exit_code == 2
    assert "holds no trained model; expected the run folder" in result.output
