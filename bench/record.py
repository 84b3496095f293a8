"""What a benchmark run leaves: one JSON file with the machine, the commit and every row, named after the machine."""

from __future__ import annotations

import json
import re
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

Row = dict[str, Any]
RESULTS = Path(__file__).with_name("results")
# Widest first: the first that the processor reports names the machine.
INSTRUCTION_SETS = {"amx_bf16": "amx", "avx512_bf16": "avx512-bf16", "avx512f": "avx512", "avx2": "avx2"}


def describe_machine(machine_info: dict[str, Any]) -> dict[str, Any]:
    """The parts of pytest-benchmark's machine info that explain a number, and torch's settings; no host name."""
    cpu = machine_info["cpu"]
    flags = [flag for flag in cpu.get("flags", ()) if flag.startswith(("amx", "avx", "fma", "f16c"))]
    return {
        "cpu": cpu.get("brand_raw", machine_info["machine"]),
        "isa": next((name for flag, name in INSTRUCTION_SETS.items() if flag in flags), "plain"),
        "isa_flags": flags,
        "cores": cpu.get("count"),
        "system": machine_info["system"],
        "python": machine_info["python_version"],
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def machine_name(machine: dict[str, Any]) -> str:
    """A file name for the machine: its processor, its widest instruction set and its cores."""
    return file_name(f"{machine['cpu']} {machine['isa']} {machine['cores']} cores")


def file_name(text: str) -> str:
    """Lower-case letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def write(
    machine_info: dict[str, Any], commit_info: dict[str, Any], rows: dict[str, list[Row]], folder: Path = RESULTS
) -> tuple[dict[str, Any], Path]:
    """Write the rows of every table to `folder/<machine>.json`, over an older file; return what is in it, and where."""
    machine = describe_machine(machine_info)
    commit = {"id": commit_info["id"], "dirty": commit_info["dirty"]}
    date = datetime.now(timezone.utc).isoformat(timespec="seconds")
    folder.mkdir(exist_ok=True)
    path = folder / f"{machine_name(machine)}.json"
    results = {"machine": machine, "commit": commit, "date": date, **rows}
    path.write_text(json.dumps(results, indent=1) + "\n")
    return results, path
