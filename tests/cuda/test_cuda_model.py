"""The model of the CUDA kernels' speed: what it counts is what the kernels do."""

import pytest
import torch

from bench import cuda_code, cuda_model
from bench.cuda_code import Instruction
from bench.cuda_timeline import Phase, clocks_of_item
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
