"""Two ranks under torchrun: transformers.Trainer trains as one process on both batches, `gloria train` as one run."""

import json
import tempfile
import uuid
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import trained_on_ranks
from command_on_ranks import command
from ranks import preload
from safetensors.torch import load_file
from tolerances import FLOAT32
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from typer.testing import CliRunner

from gloria.cli import app
from gloria.data import read_table, split_rows, write_phantoms
from gloria.data.shards import write_shards
from gloria.data.table import write_table
from gloria.lock import LOCK, only_writer
from gloria.training import last_checkpoint


class Ended(NamedTuple):
    failed: bool
    printed: str


def torchrun(rank_main, *arguments):
    """What `torchrun --nproc-per-node 2` does of a function, when both ranks have ended.

    Its agent runs here, and forks the ranks from a server that has imported everything once.
    """
    preload(["gloria.cli", "gloria.training"])
    with tempfile.TemporaryDirectory() as logs:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=2,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            run_id=str(uuid.uuid4()),
            max_restarts=0,
            start_method="forkserver",
            logs_specs=DefaultLogsSpecs(logs, redirects=Std.OUT),
        )
        with ThreadPoolExecutor(1) as elsewhere:  # in the main thread the agent would keep the handlers of signals
            launched = elsewhere.submit(elastic_launch(config, on_one_thread), rank_main, *map(str, arguments))
            failed = isinstance(launched.exception(timeout=500), ChildFailedError)
        if not failed:
            launched.result()
        return Ended(failed, "".join(log.read_text() for log in sorted(Path(logs).rglob("stdout.log"))))


def on_one_thread(rank_main, *arguments):
    torch.set_num_threads(1)
    rank_main(*arguments)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_phantoms(tmp_path_factory.mktemp("phantoms"), 16, size=64)


def test_two_ranks_train_as_one_process_does(tmp_path):
    trained_on_ranks.train(tmp_path / "alone", rows_a_rank=trained_on_ranks.ROWS)
    assert not torchrun(trained_on_ranks.train, tmp_path / "ranks", trained_on_ranks.ROWS // 2).failed
    alone, ranks = (json.loads((tmp_path / name / "log.json").read_text()) for name in ("alone", "ranks"))
    for key in ("loss", "grad_norm", "eval_loss"):
        ours, theirs = ([entry[key] for entry in log if key in entry] for log in (ranks, alone))
        assert len(ours) == 3
        assert ours == pytest.approx(theirs, rel=1e-4), key
    weights = load_file(tmp_path / "alone" / "model.safetensors")
    trained = load_file(tmp_path / "ranks" / "model.safetensors")
    for name, values in weights.items():
        torch.testing.assert_close(trained[name], values, **FLOAT32, msg=lambda text, name=name: f"{name}: {text}")


def test_the_command_trains_on_two_ranks_and_the_end_of_one_leaves_a_checkpoint_for_both(table, tmp_path):
    def arguments(out):
        given = {"--epochs": 2, "--batch-size": 3, "--held-out": 0.25, "--schedule": "plateau", "--preset": "small"}
        return ["train", table, "--out", tmp_path / out, *chain(*given.items()), "--cpu"]

    whole = torchrun(command, *arguments("whole"))
    assert not whole.failed
    assert whole.printed.count("12 rows to train on, 4 held out") == whole.printed.count("wrote the model") == 1
    metrics = json.loads((tmp_path / "whole" / "metrics.json").read_text())
    assert (metrics["training_rows"], metrics["held_out_rows"]) == (12, 4)
    evaluations = [entry for entry in metrics["log"] if "eval_loss" in entry]
    assert [entry["step"] for entry in evaluations] == [2, 4]  # six of the twelve rows in a step
    assert all("eval_image_to_text_P@1" in entry for entry in evaluations)

    # A signal to one of them ends both after the same step.
    assert torchrun(command, "--terminate", 1, *arguments("broken")).failed
    assert Path(last_checkpoint(tmp_path / "broken")).name == "checkpoint-1"
    # A crash in the last step may meet the other one in the step before, which it then cannot finish.
    assert torchrun(command, "--crash", 3, *arguments("broken"), "--resume").failed
    assert Path(last_checkpoint(tmp_path / "broken")).name in ("checkpoint-2", "checkpoint-3")
    alone = CliRunner().invoke(app, [*map(str, arguments("broken")), "--resume"])
    assert alone.exit_code == 2
    assert "the run has processes 2, not 1; processes cannot change within a run" in alone.output
    assert not torchrun(command, *arguments("broken"), "--resume").failed
    weights, resumed = (load_file(tmp_path / run / "model.safetensors") for run in ("whole", "broken"))
    for name, values in weights.items():
        assert torch.equal(values, resumed[name]), name


def test_the_command_shares_out_shards_among_the_ranks(table, encoders, tmp_path):
    training, held_out = split_rows(read_table(table), held_out=0.25)
    write_shards(training, tmp_path / "shards", shards=2)
    write_table(tmp_path / "shards" / "held_out.csv", held_out)
    arguments = ["train", tmp_path / "shards", "--out", tmp_path / "run", *encoders]
    with only_writer(tmp_path / "run"):  # one lock for both
        assert torchrun(command, *arguments).failed
        assert [path.name for path in (tmp_path / "run").iterdir()] == [LOCK]
    run = torchrun(command, *arguments)
    assert not run.failed
    assert "12 rows to train on, 4 held out" in run.printed
    log = json.loads((tmp_path / "run" / "metrics.json").read_text())["log"]
    assert [entry["step"] for entry in log if "eval_loss" in entry] == [1]  # each rank reads four of its shard's six
