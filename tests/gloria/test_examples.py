"""The examples run as they stand, on phantoms, and learn."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gloria import GloriaModel, GloriaProcessor
from gloria.data import write_phantoms

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_phantoms(tmp_path_factory.mktemp("phantoms"), 12, size=64)


def test_every_example_is_run():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {"plain_torch", "lightning_module", "transformers_trainer"}


@pytest.mark.parametrize(
    ("example", "saved"),
    [("plain_torch", None), ("lightning_module", "lightning-run"), ("transformers_trainer", "trainer-run")],
)
def test_example_runs_and_learns(example, saved, table, tmp_path):
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(EXAMPLES / f"{example}.py"), str(table)]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    losses = [float(value) for value in re.findall(r"\bloss'?:? '?([\d.]+)", run.stdout)]
    assert len(losses) >= 10, run.stdout
    assert losses[9] < losses[0]
    if saved:
        assert GloriaModel.from_pretrained(tmp_path / saved).config.projection_dim == 96
        assert GloriaProcessor.from_pretrained(tmp_path / saved).max_length == 97
