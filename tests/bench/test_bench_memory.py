"""The memory figure is what a contender allocates beyond its results, freed or not; failures name the contender."""

from dataclasses import replace
from types import SimpleNamespace

import psutil
import pytest
import torch

from bench import memory
from bench.cases import SMALL_CASES
from bench.peers import does_not_fit, eager

CASE = SMALL_CASES[0]
MEBIBYTE = 2**20


@pytest.mark.parametrize("size", [16, 64])
def test_a_freed_temporary_is_counted_and_results_are_not(monkeypatch, size):
    def wasteful(case, inputs):
        contender = eager(case, inputs)

        def scores(regions, words):
            # The warm-up's batch is smaller: only the measured one may waste, or the peak would already be there.
            torch.ones(size * MEBIBYTE if len(regions) == CASE.batch else 1, dtype=torch.uint8)
            return contender.scores(regions, words)

        return replace(contender, scores=scores)

    monkeypatch.setattr(memory, "eager", wasteful)
    measured = memory.measure(CASE, "eager", "float32", backend="reference")
    assert abs(measured["extra_bytes"] / MEBIBYTE - size) < 3
    regions, words = CASE.batch * CASE.regions, CASE.batch * max(CASE.lengths)
    assert measured["result_bytes"] == 4 * (CASE.width * (regions + words) + CASE.batch**2)


def test_the_limit_grows_by_a_float32_of_every_word_gradient():
    case = replace(CASE, words_each=10)
    assert memory.allowed_bytes(case) - memory.allowed_bytes(replace(case, words_each=9)) == 4 * case.batch * case.width


def test_a_peer_is_left_out_where_memory_is_short(monkeypatch):
    available = 2**30
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=available))
    assert does_not_fit("loop", CASE, torch.float32) is None
    assert does_not_fit("loop", replace(CASE, batch=512, side=19), torch.float32).startswith("does not fit: about ")
    assert does_not_fit("fused", replace(CASE, batch=512, side=19), torch.float32) is None


def test_a_failing_measurement_says_which_and_why():
    with pytest.raises(RuntimeError, match=r"memory of fused on Case\(name='quick'.*: status 1") as failure:
        memory.measure_in_subprocess(CASE, "fused", "float32", backend="no-such-backend")
    assert "ValueError: backend is 'no-such-backend'" in str(failure.value)
