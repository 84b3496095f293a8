"""What nvcc made of the kernels, without a GPU: nothing spilled, on tensor cores, within a block's limits."""

import os
import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

import gloria_ops

# Of each architecture, the kernels with products: two dtypes, dot and cosine; word norm none, softmax with and (but on
# sm_90a) without a bound; and how many registers a thread may have: of one in 256, and at the launch of one in 512.
KERNELS = {"sm_80": 12, "sm_90": 12, "sm_90a": 8}
REGISTERS = {"sm_80": 255, "sm_90": 255, "sm_90a": 128}


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
        elif match := re.search(r"/\*[0-9a-f]+\*/\s+(?:@!?U?P\d+ )?([A-Z][A-Zx0-9_.]+)", line):
            found[architecture, kernel].append(match[1])
    return found


def products(kernels):
    return {key: value for key, value in kernels.items() if "forward" in key[1]}


def test_every_kernel_is_there_for_every_architecture(resources):
    assert {architecture for architecture, _ in resources} == set(KERNELS)
    for architecture, count in KERNELS.items():
        assert sum(key[0] == architecture for key in products(resources)) == count


def test_nothing_is_spilled(resources, instructions):
    for key, names in products(instructions).items():
        local = [name for name in names if name.split(".")[0] in ("LDL", "STL")]
        assert not local, f"{key} touches local memory {len(local)} times"
        assert resources[key]["REG"] <= REGISTERS[key[0]]


def test_products_run_on_tensor_cores(instructions):
    for (architecture, kernel), names in products(instructions).items():
        cosine = "Lb0EEE" not in kernel
        if architecture == "sm_90a":
            # A stage is four products; those with the attention are others.
            wanted = 8 if cosine else 4
            assert sum(name.startswith("HGMMA.64x128x16.F32") for name in names) == wanted, kernel
            assert any(name.startswith("UTMALDG.3D.MULTICAST") for name in names), kernel
            # One arrive before each group of products, and none that the compiler had to add.
            assert sum(name.startswith("WARPGROUP.ARRIVE") for name in names) == wanted // 4, kernel
        else:
            # A step of the affinities: two times 16 products; of the cosine, as many with the attention.
            assert sum(name.startswith("HMMA.16816.F32") for name in names) >= (64 if cosine else 32), kernel
            assert any(name.startswith("LDGSTS") for name in names), kernel


def test_no_barrier_reaches_beyond_the_block(instructions):
    """A wait that invalidates the first-level cache, or an arrival that waits for all memory, costs too much."""
    for key, names in products(instructions).items():
        # The one barrier of the cluster at the start of a kernel for sm_90a.
        allowed = int(key[0] == "sm_90a")
        for name in ("CCTL", "MEMBAR.ALL.GPU", "MEMBAR.SC.GPU"):
            assert sum(each.startswith(name) for each in names) <= allowed, f"{key}: {name}"
