"""Kernels are made for the interpreter or for a GPU when they are imported, so each kind has a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def in_process():
    """Runs one of the `checks_*.py` here in a fresh process; its failures are the caller's."""

    def run(file: str, interpreted: bool) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
        if interpreted:
            environment["TRITON_INTERPRET"] = "1"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "--no-header",
            "-p",
            "no:cacheprovider",
            str(HERE / file),
        ]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=HERE.parents[1])
        assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]

    return run
