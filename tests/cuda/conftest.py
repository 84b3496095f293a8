"""The emulated kernels, built once, in the place of the CUDA ones."""

import emulation
import pytest

from gloria_ops.backends.cuda import device


@pytest.fixture(scope="session")
def built():
    reason = emulation.missing()
    if reason:
        pytest.skip(reason)
    return emulation.build()


@pytest.fixture(params=[False, True], ids=["sm_80", "sm_90a"])
def kernels(built, request):
    module = emulation.load(built)
    module.set_schedule(0)
    with device.emulated_by(module, hopper=request.param):
        yield module
