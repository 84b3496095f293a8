"""What nvcc made of the kernels, without a GPU: nothing spilled, on tensor cores, within a block's limits."""

import math
import re

import pytest

from bench import cuda_code

# Of each architecture, the kernels with products: two dtypes, forward and for backward; words as rows; else cosine
# without a norm over words, and dot and cosine with one, with and (but on sm_90a) without a bound.
KERNELS = {"sm_80": 24, "sm_90": 24, "sm_90a": 16}
# At least so many places of forward_sm90.h issue a step: between the parts of the attention.
STEPS = 12


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


def registers(architecture, kernel):
    """How many a thread may have: of one in 256, and at the launch of one in 384."""
    return 255 if architecture != "sm_90a" else 168


def test_nothing_is_spilled(resources, instructions):
    for key, names in (products(instructions) | elementwise(instructions)).items():
        local = [name for name in names if name.split(".")[0] in ("LDL", "STL")]
        assert not local, f"{key} touches local memory {len(local)} times"
        assert resources[key]["REG"] <= registers(*key)


def test_products_run_on_tensor_cores(instructions):
    for (architecture, kernel), names in products(instructions).items():
        rows = re.search(r"rows[89]0", kernel) is not None
        # Behind the norm: bounded, cosine, for backward.
        cosine = not rows and re.search(r"WordNormE\dELb\dELb(\d)", kernel)[1] == "1"
        if architecture == "sm_90a":
            # A step is four products, eight of all regions of words as rows, where one of half of them has four.
            shape, most, least = ("64x184", 8, 12) if rows else ("64x128", 4, 4 * STEPS)
            counts = [sum(name.startswith(kind) for name in names) for kind in ("HGMMA", f"HGMMA.{shape}x16.F32")]
            assert counts[0] == counts[1] >= least, kernel
            assert any(name.startswith("UTMALDG.3D.MULTICAST") for name in names), kernel
            # One arrive before each step's products, and none that the compiler had to add.
            arrivals = sum(name.startswith("WARPGROUP.ARRIVE") for name in names)
            assert arrivals == math.ceil(counts[0] / most), kernel
            # Products that the compiler ran one by one would have a wait behind each.
            assert sum(name.startswith("WARPGROUP.DEPBAR") for name in names) < counts[0] / 2, kernel
        else:
            # A step: four times 32 products where words are rows; else of the affinities two times 16, of the cosine
            # as many with the attention.
            wanted = 128 if rows else 64 if cosine else 32
            assert sum(name.startswith("HMMA.16816.F32") for name in names) >= wanted, kernel
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
