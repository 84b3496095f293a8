"""What the CUDA kernels do for a tile of words and an image: counted by the emulator and in the compiled loops.

`GLORIA_CUDA_COUNTS=bench/results/cuda_counts.json python -m pytest tests/cuda/test_cuda_counts.py` writes the counts of
all kernels of a forward pass, for models of speed.
"""

import json
import os
from pathlib import Path

import pytest
import torch
from cuda_checks import SCORES, scores
from problems import problem

from bench import cuda_code
from gloria_ops.backends.cuda import device

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
    """Every innermost loop with products, by its instructions; they stand for less, where cold code is within."""
    if cuda_code.missing():
        pytest.skip(cuda_code.missing())
    loops = {}
    for (architecture, kernel), code in cuda_code.instructions().items():
        for number, names in enumerate(cuda_code.product_loops(code)):
            kinds = {kind: sum(name.startswith(kind) for name in names) for kind in (*MULTIPLY_ADDS, "LDSM")}
            work = sum(count * MULTIPLY_ADDS.get(kind, 0) for kind, count in kinds.items())
            assert work > 0
            loops[f"{architecture} {kernel} {number}"] = {"instructions": len(names), **kinds, "multiply_adds": work}
    assert {key.split()[0] for key in loops} == {"sm_80", "sm_90", "sm_90a"}
    if TABLE:
        tables = {"emulated": _counted, "loops": loops}
        Path(TABLE).write_text(json.dumps(tables, indent=1) + "\n", encoding="utf-8")
