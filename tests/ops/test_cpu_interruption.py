"""A call gives up when a signal handler raises, and says for what a refused allocation was."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest
import torch
from kernel_checks import threads

from gloria_ops import local_scores


class Interruption(Exception):
    pass


@pytest.fixture
def ticks():
    """A handler that is called twenty times a second, and raises at the third call; the calls."""
    calls = []

    def handle(number, frame):
        calls.append(number)
        if len(calls) == 3:
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise Interruption

    before = signal.signal(signal.SIGALRM, handle)
    yield calls
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def inputs(images: int, requires_grad: bool = False):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(images, rows, 256, generator=generator, requires_grad=requires_grad) for rows in (196, 64)]


@pytest.mark.parametrize("count", [1, 2])
def test_a_signal_handler_runs_during_forward_and_ends_it(ticks, count):
    regions, words = inputs(images=3)
    with threads(count):
        expected = local_scores(regions, words)
        many = [rows.repeat(200, 1, 1) for rows in (regions, words)]  # tens of seconds of work
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
        with pytest.raises(Interruption):
            local_scores(*many)
        assert len(ticks) == 3  # with a handler that waited for the end of the call there would be one call
        assert torch.equal(local_scores(regions, words), expected)


@pytest.mark.parametrize("count", [1, 2])
def test_a_signal_handler_runs_during_backward_and_ends_it(ticks, count):
    with threads(count):
        leaves = inputs(images=3, requires_grad=True)
        expected = torch.autograd.grad(local_scores(*leaves).sum(), leaves)
        many = [rows.detach().repeat(40, 1, 1).requires_grad_() for rows in leaves]
        scores = local_scores(*many)
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
        with pytest.raises(Interruption):
            torch.autograd.grad(scores.sum(), many)
        assert len(ticks) == 3
        for again, before in zip(torch.autograd.grad(local_scores(*leaves).sum(), leaves), expected, strict=True):
            assert torch.equal(again, before)


def test_a_refused_allocation_says_how_many_bytes_for_what():
    program = """
        import resource, torch
        from gloria_ops import local_scores
        regions, words = torch.zeros(1, 20_000, 16), torch.zeros(1, 8, 16)
        local_scores(regions, words)  # what the first call needs beside
        room = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize() + (8 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (room, resource.RLIM_INFINITY))
        try:
            local_scores(regions.repeat(1, 2, 1), words)
        except MemoryError as error:
            print(error)
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "bytes for the" in done.stdout
    assert "take smaller batches or fewer threads" in done.stdout
