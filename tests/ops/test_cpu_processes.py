"""The CPU kernels in forked children, from several Python threads, under changing thread counts: the same bits."""

import multiprocessing
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from kernel_checks import fused, threads
from problems import PRESETS, problem

from gloria_ops.backends import cpu
from gloria_ops.tokens import Ragged

# Enough work for four threads of the kernels, and gradients that torch fills with its own threads (32768 numbers).
LARGE = problem("random", images=8, texts=9, most_regions=60, most_words=40, width=96).to(torch.float32)
SIDES = ((LARGE.regions, LARGE.region_lengths), (LARGE.words, LARGE.word_lengths))
NAMES = ["released", "paper", "scan_i2t"]


def bits(name: str) -> list[bytes]:
    return [each.numpy().tobytes() for each in fused(LARGE, PRESETS[name])]


def kernels_alone(name: str) -> list[bytes]:
    """From the backend itself, compared without torch: in a child, torch's own sums wait for threads that it lacks."""
    images, texts = (
        Ragged(rows.flatten(0, 1), torch.arange(len(rows)) * rows.shape[1], lengths) for rows, lengths in SIDES
    )
    scores = cpu.forward(images, texts, PRESETS[name])
    return [
        each.numpy().tobytes()
        for each in (scores, *cpu.backward(LARGE.cotangent.float(), images, texts, PRESETS[name]))
    ]


def in_a_forked_child(compute, expected) -> int | None:
    """Exit code of a child that compares; None where it hangs."""

    def compare() -> None:
        raise SystemExit(compute() != expected)

    child = multiprocessing.get_context("fork").Process(target=compare)
    child.start()
    child.join(60)
    if child.exitcode is None:
        child.kill()
        child.join()
        return None
    return child.exitcode


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("name", NAMES)
def test_a_forked_child_computes_the_same_bits(name):
    with threads(4):
        expected = kernels_alone(name)  # and wakes the threads that the child will lack
        assert in_a_forked_child(lambda: kernels_alone(name), expected) == 0


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_the_child_of_a_forked_child_computes_the_same_bits():
    with threads(4):
        expected = kernels_alone("released")
        assert in_a_forked_child(lambda: in_a_forked_child(lambda: kernels_alone("released"), expected), 0) == 0


@pytest.mark.parametrize("count", [1, 2])
def test_python_threads_compute_at_once_what_each_computes_alone(count):
    expected = {name: bits(name) for name in NAMES}
    together = threading.Barrier(4)

    def compute(worker: int) -> bool:
        torch.set_num_threads(count)  # counts for the thread that sets it
        together.wait(60)
        return all(bits(name) == expected[name] for name in NAMES[worker % len(NAMES) :] + NAMES)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(compute, range(4)))


def test_the_number_of_threads_may_change_between_and_during_calls():
    with threads(1):
        expected = bits("released")
    done = threading.Event()

    def keep_changing() -> None:
        while not done.is_set():
            for count in (1, 4, 2, 3):
                torch.set_num_threads(count)

    with threads(1), ThreadPoolExecutor(1) as pool:
        changing = pool.submit(keep_changing)
        try:
            for count in (3, 1, 4, 2) * 3:
                torch.set_num_threads(count)
                assert bits("released") == expected
        finally:
            done.set()
        changing.result()
