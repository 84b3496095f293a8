"""The Triton kernels without a GPU: interpreted against the float64 reference, and compiled for GPUs not there."""

import pytest

pytest.importorskip("triton")


def test_interpreted_kernels(in_process):
    in_process("checks_interpreted.py", interpreted=True, shards=2)


def test_the_peer_of_the_gpu_benchmark(in_process):
    in_process("checks_chunked.py", interpreted=True)


def test_the_stages_of_the_gpu_check(in_process):
    in_process("checks_gpu_stages.py", interpreted=True)


def test_compiled_kernels(in_process):
    in_process("checks_compiled.py", interpreted=False, shards=2)


def test_without_a_gpu_says_what_to_do(in_process):
    in_process("checks_unavailable.py", interpreted=False)
