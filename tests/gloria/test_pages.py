"""The pages on attention and weights: their commands and their Python run as they stand there."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from released_checkpoint import random_weights, released_shapes
from transformers import BertConfig
from typer.testing import CliRunner

from gloria.cli import app
from gloria.data import read_table, write_phantoms

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def place(model, processor, tokenizer, tmp_path, monkeypatch, no_network):
    """A working directory with all that the pages mention."""
    monkeypatch.chdir(tmp_path)
    for part in (model, processor):
        part.save_pretrained("runs/first")
    write_phantoms(".", 4, size=64).rename("reports.csv")
    row = read_table("reports.csv")[1]
    row.image.rename("chest.png")
    Image.open("chest.png").save(row.image)
    row.mask.rename("mask.png")
    Image.open("mask.png").save(row.mask)
    settings = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=24,
        intermediate_size=40,
        num_attention_heads=2,
        max_position_embeddings=128,
    )
    settings.save_pretrained("Bio_ClinicalBERT")
    tokenizer.save_pretrained("Bio_ClinicalBERT")
    shapes = released_shapes(hidden=24, intermediate=40, vocabulary=len(tokenizer), positions=128)
    weights = {f"gloria.{name}": tensor for name, tensor in random_weights(shapes).items()}
    torch.save({"state_dict": weights}, "chexpert_resnet50.ckpt")
    return tmp_path


def run_page(name):
    """Runs a page; the names that its Python left."""
    page = (DOCS / name).read_text(encoding="utf-8")
    commands = re.findall(r"^    gloria (.*)$", page, flags=re.MULTILINE)
    assert commands
    for command in commands:
        result = CliRunner().invoke(app, shlex.split(command))
        assert result.exit_code == 0, f"{command}: {result.output}"
    namespace: dict[str, object] = {}
    exec("\n".join(re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)), namespace)
    return namespace


def test_attention(place):
    left = run_page("attention.md")
    assert left["maps"].shape == (5, 4, 4)
    np.testing.assert_allclose(left["maps"].sum((1, 2)), 1, rtol=1e-5)
    assert 0 <= left["found"].mass <= 1
    assert left["page"].startswith("<!doctype html>")
    for name in ("shown/attention.png", "shown/attention.html", "grid.png", "localized.csv"):
        assert (place / name).stat().st_size > 0


def test_weights(place):
    left = run_page("weights.md")
    assert left["model"].config.projection_dim == 24
    assert json.loads((place / "runs/released/config.json").read_text())["model_type"] == "gloria"
    assert "license: cc-by-nc-4.0" in (place / "runs/released/README.md").read_text(encoding="utf-8")
