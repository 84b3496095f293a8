"""The emulated kernels, built once, in the place of the CUDA ones."""

import emulation
import pytest

from gloria_ops.backends import cuda


@pytest.fixture(scope="session")
def built():
    reason = emulation.missing()
    if reason:
        pytest.skip(reason)
    return emulation.build()


@pytest.fixture
def kernels(built):
    module = emulation.load(built)
    module.set_schedule(0)
    with cuda.emulated_by(module):
        yield module
