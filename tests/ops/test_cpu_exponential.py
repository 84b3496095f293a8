"""The exponential of the attention by itself: the scores would hide a small bias of its coefficients."""

import math

import pytest
import torch

from gloria_ops.backends import cpu


@pytest.fixture(params=cpu.available_isas())
def isa(request):
    with cpu.use_isa(request.param):
        yield request.param


def relative_error(dtype: torch.dtype) -> torch.Tensor:
    x = torch.linspace(-86, 88, 1_000_003)
    truth = x.double().exp()
    return (cpu.exponential(x, dtype).double() - truth) / truth


def test_float32_errs_by_about_a_unit_in_the_last_place(isa):
    error = relative_error(torch.float32)
    assert error.abs().max() < 1e-7
    assert error.mean().abs() < 1e-9


def test_bfloat16_errs_by_far_less_than_its_rounding(isa):
    error = relative_error(torch.bfloat16)
    assert error.abs().max() < torch.finfo(torch.bfloat16).eps / 50
    assert error.mean().abs() < 1e-5


def test_ends_of_the_range(isa):
    x = torch.tensor([-math.inf, -1000.0, -87.0, 0.0, math.nan])
    floor = math.exp(-87)
    expected = torch.tensor([floor, floor, floor, 1.0, math.nan])
    torch.testing.assert_close(cpu.exponential(x), expected, equal_nan=True, rtol=1e-6, atol=0)


def test_only_contiguous_float32_is_taken():
    with pytest.raises(ValueError, match=r"x is torch\.float64"):
        cpu.exponential(torch.zeros(3, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"strides \(2,\)"):
        cpu.exponential(torch.zeros(6)[::2])
