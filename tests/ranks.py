"""Runs functions on the ranks of a process group, each rank a process of its own, and brings back what went wrong."""

import json
import multiprocessing
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

Case = Callable[[], None]


def run(cases: dict[str, Case], world: int, timeout: float = 120) -> dict[str, str]:
    """Runs every case on `world` gloo processes that start once; the failures by name, "" where there is none.

    A case is a function of a module, and runs on all ranks at once; a rank that leaves it early lets the others wait
    for `timeout` seconds.
    """
    with tempfile.TemporaryDirectory() as folder:
        start(_rank, (world, folder, cases, timeout), world)
        told = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(world)]
    return {
        name: "\n".join(f"on rank {rank}: {said[name]}" for rank, said in enumerate(told) if said[name])
        for name in cases
    }


def start(rank_main: Callable[..., None], arguments: tuple[Any, ...], world: int) -> None:
    """Runs `rank_main(rank, *arguments)` in `world` processes, and waits for them."""
    preload([])
    mp.start_processes(rank_main, arguments, nprocs=world, start_method="forkserver")


def preload(modules: list[str]) -> None:
    """Name what processes will need: imported once, by the server that all are forked from, where it has not begun."""
    multiprocessing.set_forkserver_preload(["torch._dynamo", "torch.nn.parallel", "pytest", *modules])


def join(rank: int, world: int, folder: str, timeout: float) -> None:
    """Makes this process a rank of a group that meets in a folder."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=timeout),
    )


def _rank(rank: int, world: int, folder: str, cases: dict[str, Case], timeout: float) -> None:
    join(rank, world, folder, timeout)
    said = {}
    for name, case in cases.items():
        torch.manual_seed(0)
        said[name] = ""
        try:
            case()
        except (Exception, pytest.fail.Exception):  # what pytest.raises raises where nothing was
            said[name] = traceback.format_exc()
        Path(folder, f"{rank}.json").write_text(json.dumps(said))
    dist.destroy_process_group()
