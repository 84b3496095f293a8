"""What nvcc made of the CUDA kernels, what they do for a tile and an image, and the model of their speed.

One file, since to disassemble the kernels takes longest. `GLORIA_CUDA_COUNTS=bench/results/cuda_counts.json
python -m pytest tests/cuda/test_cuda_code.py` writes the counts of all kernels of a forward pass, for models of speed.
"""

import json
import math
import os
import re
from pathlib import Path

import pytest
import torch
from cuda_checks import SCORES, scores
from problems import problem

from bench import cuda_code, cuda_model
from bench.cuda_code import Instruction
from bench.cuda_timeline import Phase, clocks_of_item
from gloria_ops.backends.cuda import device
from gloria_ops.backends.cuda.pack import pack_words
from gloria_ops.tokens import Ragged

# Of each architecture, the kernels with products: two dtypes, forward and for backward; words as rows; else cosine
# without a norm over words, and dot and cosine with one, with and (but on sm_90a) without a bound. One for gG.
KERNELS = {"sm_80": 25, "sm_90": 25, "sm_90a": 16}
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
    return {key: value for key, value in kernels.items() if re.search("forward|gram_gradient", key[1])}


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
        rows = re.search(r"rows[89]0|gram80", kernel) is not None
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
            # A step: four times 32 products where words are rows, and for gG; else of the affinities two times 16, of
            # the cosine as many with the attention.
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


TABLE = os.environ.get("GLORIA_CUDA_COUNTS")
REGIONS, WIDTH, WORDS = 361, 768, 128
# A cluster of two takes two tiles at once.
TILES = 2
# Of a product's instructions, multiply-adds.
MULTIPLY_ADDS = {"HMMA": 16 * 8 * 16, "HGMMA.64x128x16": 64 * 128 * 16, "HGMMA.64x184x16": 64 * 184 * 16}

_counted: dict[str, dict[str, float]] = {}


@pytest.mark.parametrize("name", ["paper", "released"])
def test_no_bank_conflicts_and_little_waste(kernels, name):
    given = problem("random", 1, TILES, REGIONS, WORDS, WIDTH)
    given = given._replace(word_lengths=torch.full((TILES,), WORDS)).to(torch.bfloat16)
    hopper = device.emulated.hopper
    with device.emulated_by(kernels, TILES, hopper):
        kernels.take_counters()
        scores(given, SCORES[name])
        counted = kernels.take_counters()
    affinities = TILES * WORDS * REGIONS
    useful = affinities * (WIDTH + (REGIONS if name == "released" else 0))
    assert counted["conflicts"] == 0
    # 361 regions are padded to 384, or to 368; of the products with G those above its diagonal are left out.
    assert counted["multiplications"] <= 1.07 * useful
    flops_of_a_byte = 2 * useful / counted["bytes_copied"]
    assert flops_of_a_byte >= (100 if hopper else 55)
    _counted[f"{'sm_90a' if hopper else 'sm_80'} {name}"] = {
        "multiply_adds_over_useful": round(counted["multiplications"] / useful, 4),
        "useful_flops_of_a_byte": round(flops_of_a_byte, 1),
        "exponentials_of_an_affinity": round(counted["exponentials"] / affinities, 3),
        "shuffles_of_an_affinity": round(32 * counted["shuffles"] / affinities, 3),
    }


def test_the_loops_of_products():
    """Of each kernel, the innermost loops with products that differ; they hold more than runs where code is cold."""
    if cuda_code.missing():
        pytest.skip(cuda_code.missing())
    loops = {}
    for (architecture, kernel), code in cuda_code.instructions().items():
        for names in cuda_code.product_loops(code):
            kinds = {kind: sum(name.startswith(kind) for name in names) for kind in (*MULTIPLY_ADDS, "LDSM")}
            work = sum(count * MULTIPLY_ADDS.get(kind, 0) for kind, count in kinds.items())
            assert work > 0
            counted = {"instructions": len(names), **kinds, "multiply_adds": work}
            of_kernel = loops.setdefault(f"{architecture} {kernel}", [])
            of_kernel += [] if counted in of_kernel else [counted]
    assert {key.split()[0] for key in loops} == {"sm_80", "sm_90", "sm_90a"}
    if TABLE:
        tables = {"emulated": _counted, "loops": loops}
        # A kernel a line.
        text = re.sub(r"\[[^]]*\]", lambda rows: " ".join(rows[0].split()), json.dumps(tables, indent=1))
        Path(TABLE).write_text(text + "\n", encoding="utf-8")


@pytest.mark.parametrize("most", [60, 128, 300])
def test_it_fills_as_many_tiles_as_the_plan(kernels, most):
    lengths = torch.randint(1, most + 1, (70,), generator=torch.Generator().manual_seed(most))
    texts = Ragged(torch.zeros(int(lengths.sum()), 8, dtype=torch.bfloat16), lengths.cumsum(0) - lengths, lengths)
    assert cuda_model.tiles(lengths.tolist()) == int(pack_words(texts).kept["counts"][1])


def test_the_shortest_way_that_does_the_work():
    """A branch over what is not wanted is taken, one over what is wanted is not, and a jump back ends the way."""
    code = [
        Instruction(0, "MOV", None),
        Instruction(16, "BRA", 64, conditional=True),
        Instruction(32, "HMMA", None),
        Instruction(48, "BRA", 80, conditional=True),
        Instruction(64, "LDG", None),
        Instruction(80, "BRA", 0, conditional=True),
        Instruction(96, "EXIT", None),
    ]
    assert len(cuda_model.shortest(code, (("HMMA", 1),))) == 5
    assert len(cuda_model.shortest(code, (("HMMA", -1),))) == 4
    assert len(cuda_model.shortest(code, (("HMMA", 1),), ends=frozenset([48]))) == 3
    assert len(cuda_model.shortest(code, (("HMMA", 1),), first=64)) == 6


def test_a_way_does_not_end_in_a_wait():
    code = [
        Instruction(0, "MOV", None),
        Instruction(16, "SYNCS", None),
        Instruction(32, "BRA", 16, conditional=True),
        Instruction(48, "MUFU", None),
        Instruction(64, "EXIT", None),
    ]
    assert [each.name for each in cuda_model.shortest(code, (("MUFU", -1),))] == ["MOV", "SYNCS", "BRA", "MUFU", "EXIT"]


def test_a_way_is_cut_where_it_goes_past_a_product():
    code = [
        Instruction(0, "MOV", None),
        Instruction(16, "BRA", 48, conditional=True),
        Instruction(32, "HGMMA", None),
        Instruction(48, "FADD", None),
    ]
    assert cuda_model.parts(code, cuda_model.shortest(code, (("HGMMA", -1),))) == [2, 1]


PHASE = Phase(steps=10, fetch=10, product=100, code=(500,))


@pytest.mark.parametrize(
    ("phase", "groups", "clocks"),
    [
        (PHASE, 1, 100 * 10 + 500),  # nothing runs beside the code
        (PHASE._replace(meets=True), 2, 100 * 20 + 500),  # the code of the last to come is beside no product
        (PHASE, 2, 100 * 20),  # products of one group beside the code of the other
        (PHASE._replace(code=(50,) * 11, issued="between"), 1, 100 * 10),  # of one group beside its own code
        (PHASE._replace(code=(200,) * 11, issued="between"), 1, 200 * 11),
        (PHASE._replace(steps=3, code=(500,), issued="before"), 1, 500 + 100),  # the last two run while it goes on
    ],
)
def test_what_runs_beside_what(phase, groups, clocks):
    ahead = int(bool(phase.issued))
    assert clocks <= clocks_of_item([phase], groups, latency=50, ahead=ahead) < 1.3 * clocks


@pytest.mark.parametrize(
    ("phase", "clocks"),
    [
        (PHASE, 100 * 18 + 2 * 500),  # but a step of each, all come to the code together
        (PHASE._replace(code=(100,) * 11, issued="between"), 100 * 20 + 2 * 100),  # a step beside a part of the other
        (PHASE._replace(code=(200,) * 11, issued="between"), 2 * 200 * 11),
    ],
)
def test_what_runs_beside_what_in_lockstep(phase, clocks):
    assert 0.95 * clocks <= clocks_of_item([phase], 2, latency=50, lockstep=True) < 1.15 * clocks


def test_slow_fetches_set_the_time():
    phase = Phase(steps=10, fetch=400, product=100, code=(0,))
    assert clocks_of_item([phase], 2, latency=50) == pytest.approx(4000, rel=0.05)


def test_more_stages_hide_more_of_the_latency():
    phase = Phase(steps=10, fetch=10, product=100, code=(0,))
    few, many = (clocks_of_item([phase], 1, latency=800, stages=stages) for stages in (2, 16))
    assert few == pytest.approx(10 * 900 / 2, rel=0.1)
    assert many == pytest.approx(10 * 100, rel=0.1)


def test_every_count_of_the_compiled_kernels_is_of_real_work():
    if cuda_code.missing():
        pytest.skip(cuda_code.missing())
    for card in cuda_model.CARDS:
        for cosine in (False, True):
            for keep in (False, True):
                found = cuda_model.counts(card.architecture, cosine, keep)
                blocks = cuda_model.BLOCKS[card.architecture, not cosine]
                # Values of a pass that a lane has; each takes at least an exponential, a product and a sum.
                values = blocks.regions * blocks.words / blocks.warps / 32
                assert sum(found.attention) > 3 * values
                assert (sum(found.form) > 2 * values) == cosine
                assert (found.finish > 0) == cosine
            assert 10 < cuda_model.gradient_instructions(card.architecture, cosine) < 60
        # Four times 32 products, and what they read.
        assert 160 < cuda_model.gram_step_instructions(card.architecture) < 400
