"""Two ranks under transformers.Trainer and torchrun train, step by step, what one process trains on both batches."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import trained_on_ranks
from safetensors.torch import load_file
from tolerances import FLOAT32


def test_two_ranks_train_as_one_process_does(tmp_path):
    trained_on_ranks.train(tmp_path / "alone", rows_a_rank=trained_on_ranks.ROWS)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run(
        [*torchrun, trained_on_ranks.__file__, tmp_path / "ranks", str(trained_on_ranks.ROWS // 2)],
        check=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
        timeout=500,
    )
    alone, ranks = (json.loads((tmp_path / name / "log.json").read_text()) for name in ("alone", "ranks"))
    for key in ("loss", "grad_norm", "eval_loss"):
        ours, theirs = ([entry[key] for entry in log if key in entry] for log in (ranks, alone))
        assert len(ours) == 3
        assert ours == pytest.approx(theirs, rel=1e-4), key
    weights = load_file(tmp_path / "alone" / "model.safetensors")
    trained = load_file(tmp_path / "ranks" / "model.safetensors")
    for name, values in weights.items():
        torch.testing.assert_close(trained[name], values, **FLOAT32, msg=lambda text, name=name: f"{name}: {text}")
