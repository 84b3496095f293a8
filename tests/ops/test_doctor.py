"""The doctor names every backend, every dtype and the reason of each choice."""

import re
import subprocess
import sys

import pytest
import torch

from gloria_ops import doctor, local_scores
from gloria_ops.backends import cpu


def test_every_backend_and_dtype_is_reported():
    lines = doctor.report().splitlines()
    assert any(line.split()[:2] == ["cpu", "available:"] and cpu.describe() in line for line in lines)
    assert any(line.split()[:2] == ["reference", "available:"] for line in lines)
    chosen = {tuple(line.split()[:2]): line.split(maxsplit=2)[2] for line in lines if line.startswith("  cpu     ")}
    assert chosen["cpu", "float32"] == chosen["cpu", "bfloat16"] == chosen["cpu", "float16"] == "cpu"
    assert chosen["cpu", "float64"].startswith("reference; not cpu: ")
    assert "not torch.float64; not triton: " in chosen["cpu", "float64"]


def test_a_missing_extension_is_reported_with_the_fix(monkeypatch):
    monkeypatch.setattr(cpu, "unavailable", lambda: "no extension; build it")
    assert "NOT available: no extension; build it" in doctor.report()


def test_an_instruction_set_that_the_processor_lacks_is_named(monkeypatch):
    """By the doctor and by a call."""
    monkeypatch.setenv("GLORIA_OPS_ISA", "foo")
    cpu._default_isa.cache_clear()
    message = r"GLORIA_OPS_ISA is 'foo'; expected one of .*baseline"
    assert re.search(f"^  cpu +every call fails: {message}", doctor.report(), flags=re.MULTILINE)
    with pytest.raises(ValueError, match=message):
        local_scores(torch.ones(1, 2, 3), torch.ones(1, 2, 3))


def test_threads_are_counted_without_a_plural():
    assert f"threads: {torch.get_num_threads()}\n" in doctor.report()
    assert cpu.describe().endswith(f"; threads: {torch.get_num_threads()}")


def test_runs_as_a_module():
    printed = subprocess.run([sys.executable, "-m", "gloria_ops.doctor"], capture_output=True, text=True, check=True)
    assert "Automatic choice" in printed.stdout
