"""Kernels are made for the interpreter or for a GPU when they are imported, so each kind has a process of its own."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def in_process():
    """Runs one of the `checks_*.py` here, shared by some fresh processes; their failures are the caller's."""

    def run(file: str, interpreted: bool, shards: int = 1) -> None:
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

        def of(shard: int) -> "subprocess.CompletedProcess[str]":
            # One thread each: neither the interpreter nor the compiler has use for more.
            own = environment | {"GLORIA_OPS_SHARD": f"{shard}/{shards}", "OMP_NUM_THREADS": "1"}
            return subprocess.run(command, capture_output=True, text=True, env=own, cwd=HERE.parents[1])

        with ThreadPoolExecutor(shards) as pool:
            for done in pool.map(of, range(shards)):
                assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]

    return run


@pytest.fixture(autouse=True, scope="session")
def _interpreter_without_what_it_does_again():
    """The interpreter's own ways take three times as long for the same.

    It replaces the functions of its language anew at each call of a device function: once for each module and launch is
    enough. It looks for integers that overflow, and says nothing of what it finds, since it is not debugging. It lists
    all dtypes anew for each array.
    """
    if os.environ.get("TRITON_INTERPRET") != "1":
        yield
        return
    from triton.language.semantic import TritonSemantic
    from triton.runtime import interpreter

    modules = set()
    launch = interpreter.GridExecutor.__call__

    def launch_anew(self, *args, **kwargs):
        modules.clear()
        return launch(self, *args, **kwargs)

    def call(self, *args, **kwargs):
        if id(self.fn.__globals__) not in modules:
            modules.add(id(self.fn.__globals__))
            interpreter._patch_lang(self.fn)
        return self.rewrite()(*args, **kwargs)

    of_any = interpreter._get_np_dtype
    of_scalar = cache(of_any)

    def numpys_dtype(kind):
        return of_any(kind) if kind.scalar.is_ptr() else of_scalar(kind.scalar)  # a pointer's type has no hash

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter.GridExecutor, "__call__", launch_anew)
        patch.setattr(interpreter.InterpretedFunction, "__call__", call)
        patch.setattr(interpreter, "_get_np_dtype", numpys_dtype)
        patch.setattr(TritonSemantic, "binary_op_sanitize_overflow_impl", lambda *_: None)
        yield


def pytest_collection_modifyitems(config, items):
    """GLORIA_OPS_SHARD="2/12" keeps every twelfth test from the third on: compiling kernels fills many processes."""
    shard, _, shards = os.environ.get("GLORIA_OPS_SHARD", "0/1").partition("/")
    kept = set(items[int(shard) :: int(shards)])
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = [item for item in items if item in kept]
