"""The losses of 2 and 4 ranks are those of one process: values, gradients, errors; each world starts once."""

import functools

import pytest
from distributed_cases import cases
from ranks import run

WORLDS = (2, 4)


@functools.cache
def failures(world):
    return run(cases(world), world)


@pytest.mark.parametrize(("world", "name"), [(world, name) for world in WORLDS for name in cases(world)])
def test_ranks(world, name):
    assert not failures(world)[name], failures(world)[name]
