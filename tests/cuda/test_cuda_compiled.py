"""What nvcc made of the kernels, without a GPU: nothing spilled, on tensor cores, within a block's limits."""

import os
import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

import gloria_ops

ARCHITECTURES = ("sm_80", "sm_90")
# What a block may have, and a thread of one that has 256.
SHARED_BYTES = {"sm_80": 163 << 10, "sm_90": 227 << 10}
REGISTERS = 255


def extension() -> Path:
    found = list(Path(gloria_ops.__file__).parent.glob("_cuda.*.so"))
    if not found:
        pytest.skip("gloria_ops._cuda is not built: there was no nvcc >= 12.4")
    return found[0]


def dump(*options: str) -> str:
    triton = pytest.importorskip("triton")
    # Triton brings the tools; where a whole CUDA toolkit is installed they are in PATH.
    path = f"{os.environ['PATH']}:{Path(triton.__file__).parent / 'backends' / 'nvidia' / 'bin'}"
    tool = shutil.which("cuobjdump", path=path)
    if tool is None:
        pytest.skip("cuobjdump is not installed")
    command = [tool, *options, extension()]
    return subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "PATH": path}).stdout


@pytest.fixture(scope="module")
def resources() -> dict[tuple[str, str], dict[str, int]]:
    """Registers, stack, shared and local bytes of each architecture and kernel."""
    found, architecture, kernel = {}, "", ""
    for line in dump("-res-usage").splitlines():
        if match := re.search(r"\.(sm_\d+a?)\.", line) or re.search(r"arch = (sm_\d+a?)", line):
            architecture = match[1]
        if match := re.search(r"Function (\S+):", line):
            kernel = match[1]
        if "REG:" in line:
            found[architecture, kernel] = {key: int(value) for key, value in re.findall(r"([A-Z]+):(\d+)", line)}
    return found


@pytest.fixture(scope="module")
def instructions() -> dict[tuple[str, str], list[str]]:
    """The names of the instructions of each architecture and kernel."""
    found, architecture, kernel = defaultdict(list), "", ""
    for line in dump("-sass").splitlines():
        if match := re.search(r"arch = (sm_\d+a?)", line):
            architecture = match[1]
        elif match := re.search(r"Function : (\S+)", line):
            kernel = match[1]
        elif match := re.search(r"/\*[0-9a-f]+\*/\s+(?:@!?U?P\d+ )?([A-Z][A-Z0-9_.]+)", line):
            found[architecture, kernel].append(match[1])
    return found


def products(kernels):
    return {key: value for key, value in kernels.items() if "forward" in key[1]}


def test_every_kernel_is_there_for_every_architecture(resources):
    assert {architecture for architecture, _ in resources} == set(ARCHITECTURES)
    for architecture in ARCHITECTURES:
        # Two dtypes; word norm none, softmax with and without a maximum; dot and cosine.
        assert sum(key[0] == architecture for key in products(resources)) == 12


def test_nothing_is_spilled(resources, instructions):
    for key, names in products(instructions).items():
        local = [name for name in names if name.split(".")[0] in ("LDL", "STL")]
        assert not local, f"{key} touches local memory {len(local)} times"
        assert resources[key]["REG"] <= REGISTERS


def test_products_run_on_tensor_cores(instructions):
    for key, names in products(instructions).items():
        # A step of the affinities: two times 16 products; of the cosine, as many with the attention.
        wanted = 32 if "Lb0EEE" in key[1] else 64
        assert sum(name.startswith("HMMA.16816.F32") for name in names) >= wanted, key
        assert any(name.startswith("LDGSTS") for name in names), key


def test_no_barrier_reaches_beyond_the_block(instructions):
    for key, names in products(instructions).items():
        wide = [name for name in names if name.startswith(("CCTL", "ERRBAR")) or name == "MEMBAR.SC.GPU"]
        assert not wide, f"{key}: {wide}"
