"""Broken kernels are caught, and unbroken ones pass: a proof is worth what it refuses."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import emulation
import pytest
from cuda_checks import LONG
from mutants import CONTROLS, MUTANTS, ON_SM80, ON_SM90, SMALL, Mutant

# In the short profile one of each kind: a wait, a barrier, a layout, a rule of numbers.
SHORT = (
    "one group of copies too few is waited for",
    "sums of warps are read before they are there",
    "halves of the right fragment are exchanged",
    "a stage is released before its products are done",
    "a text is stabilized by its neighbors",
)


# By the files that a change may be in, any others last: what is compiled anew, and where the kernels are checked.
BOTH = ("sm_90a", "sm_80")
AFFECTED = {
    ON_SM80: (("sm80.cu",), ("sm_80",)),
    ON_SM90: (("sm90.cu",), ("sm_90a",)),
    SMALL: (("common.cu",), BOTH),
    (): (("sm80.cu", "sm90.cu"), BOTH),
}


def verdict(mutant: Mutant, folder: Path, unbroken: Path) -> subprocess.CompletedProcess:
    sources = folder / "cuda"
    shutil.copytree(emulation.SOURCES, sources)
    text = (sources / mutant.file).read_text()
    assert text.count(mutant.old) == 1, f"{mutant.file} has {text.count(mutant.old)} times {mutant.old!r}"
    (sources / mutant.file).write_text(text.replace(mutant.old, mutant.new))
    units, architectures = next(found for files, found in AFFECTED.items() if mutant.file in files or not files)
    module = emulation.build(sources, units, "-O1", unbroken.parent)
    paths = os.pathsep.join(
        [str(emulation.ROOT), str(emulation.ROOT / "tests"), str(emulation.ROOT / "tests" / "cuda")]
    )
    command = [sys.executable, emulation.ROOT / "tests" / "cuda" / "run_mutant.py", module, *architectures]
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    found = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment, check=False)
    shutil.rmtree(module.parent)
    return found


@pytest.mark.parametrize(
    "mutant", [each for each in MUTANTS if LONG or each.fault in SHORT], ids=lambda each: each.fault
)
def test_a_broken_kernel_is_caught(built, mutant, tmp_path):
    found = verdict(mutant, tmp_path, built)
    assert found.returncode == 1, f"nothing was wrong with: {mutant.fault}"
    # Caught by what it does, not by a fault of the check itself.
    assert "AssertionError: errs by" in found.stderr or "RuntimeError: " in found.stderr, found.stderr[-2000:]


@pytest.mark.parametrize("control", CONTROLS if LONG else CONTROLS[:1], ids=lambda each: each.fault)
def test_a_change_that_breaks_nothing_passes(built, control, tmp_path):
    found = verdict(control, tmp_path, built)
    assert found.returncode == 0, found.stderr[-2000:]
