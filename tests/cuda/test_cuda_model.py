"""The model of the CUDA kernels' speed: what it counts is what the kernels do."""

import pytest
import torch

from bench import cuda_code, cuda_model
from bench.cuda_code import Instruction
from gloria_ops.backends.cuda.pack import pack_words
from gloria_ops.tokens import Ragged


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
    assert cuda_model.shortest(code, (("HMMA", 1),)) == 5
    assert cuda_model.shortest(code, (("HMMA", -1),)) == 4
    assert cuda_model.shortest(code, (("HMMA", 1),), uncounted=frozenset([32])) == 4
    assert cuda_model.shortest(code, (("HMMA", 1),), first=64) == 6


@pytest.mark.parametrize(
    ("groups", "meets", "clocks"),
    [
        (1, False, 100 * 10 + 500),  # nothing runs beside the code
        (2, True, 100 * 20 + 500),  # the first to come waits; the code of the second is beside no product
        (2, False, 100 * 20),  # products of one group beside the code of the other
    ],
)
def test_what_runs_beside_what(groups, meets, clocks):
    phase = cuda_model.Phase(steps=10, fetch=10, product=100, code=500, meets=meets)
    found = cuda_model.clocks_of_item([phase], groups, latency=50)
    assert clocks <= found < 1.3 * clocks


def test_slow_fetches_set_the_time():
    phase = cuda_model.Phase(steps=10, fetch=400, product=100, code=0, meets=False)
    assert cuda_model.clocks_of_item([phase], 2, latency=50) == pytest.approx(4000, rel=0.05)


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
                assert found.attention > 3 * values
                assert (found.form > 2 * values) == cosine
            assert 10 < cuda_model.gradient_instructions(card.architecture, cosine) < 60
