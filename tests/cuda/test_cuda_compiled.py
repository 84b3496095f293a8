"""What nvcc made of the kernels, without a GPU: nothing spilled, on tensor cores, within a block's limits."""

import re

import pytest

from bench import cuda_code

# Of each architecture, the kernels with products: two dtypes, dot and cosine, forward and for backward; word norm none,
# softmax with and (but on sm_90a) without a bound; and how many registers a thread may have: of one in 256, and at the
# launch of one in 512.
KERNELS = {"sm_80": 24, "sm_90": 24, "sm_90a": 16}
REGISTERS = {"sm_80": 255, "sm_90": 255, "sm_90a": 128}


@pytest.fixture(scope="module")
def resources():
    if cuda_code.missing():
        pytest.skip(cuda_code.missing())
    return cuda_code.resources()


@pytest.fixture(scope="module")
def instructions(resources):
    return {key: [each.name for each in code] for key, code in cuda_code.instructions().items()}


def products(kernels):
    return {key: value for key, value in kernels.items() if "forward" in key[1]}


def elementwise(kernels):
    return {key: value for key, value in kernels.items() if "affinity_gradient" in key[1]}


def test_every_kernel_is_there_for_every_architecture(resources):
    assert {architecture for architecture, _ in resources} == set(KERNELS)
    for architecture, count in KERNELS.items():
        assert sum(key[0] == architecture for key in products(resources)) == count


def test_nothing_is_spilled(resources, instructions):
    for key, names in (products(instructions) | elementwise(instructions)).items():
        local = [name for name in names if name.split(".")[0] in ("LDL", "STL")]
        assert not local, f"{key} touches local memory {len(local)} times"
        assert resources[key]["REG"] <= REGISTERS[key[0]]


def test_products_run_on_tensor_cores(instructions):
    for (architecture, kernel), names in products(instructions).items():
        # Behind the norm: bounded, cosine, for backward.
        cosine = re.search(r"WordNormE\dELb\dELb(\d)", kernel)[1] == "1"
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


def test_two_blocks_of_the_elementwise_kernels_share_a_multiprocessor(resources, instructions):
    """Rows are read and written 16 bytes at a time, and enough of them at once to wait for memory."""
    for key, names in elementwise(instructions).items():
        assert resources[key]["REG"] <= 128
        assert any(name.startswith("LDG.E.128") for name in names)
        assert any(name.startswith("STG.E.128") for name in names)


def test_no_barrier_reaches_beyond_the_block(instructions):
    """A wait that invalidates the first-level cache, or an arrival that waits for all memory, costs too much."""
    for key, names in products(instructions).items():
        # The one barrier of the cluster at the start of a kernel for sm_90a.
        allowed = int(key[0] == "sm_90a")
        for name in ("CCTL", "MEMBAR.ALL.GPU", "MEMBAR.SC.GPU"):
            assert sum(each.startswith(name) for each in names) <= allowed, f"{key}: {name}"
