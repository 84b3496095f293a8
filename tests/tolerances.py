"""The one table of tolerances, each with its reason."""

import torch
from torch import Tensor

# A fused kernel may err, against float64, by these multiples of what eager PyTorch errs in the same dtype
# (FlashAttention's rule): it rounds in other places, but not more often.
FORWARD = 2
BACKWARD = 3

# Times that, where hypothesis draws the shape: a handful of numbers has no typical error of eager PyTorch, and what a
# wrong index or a wrong tail does is greater by orders of magnitude.
ANY_SHAPE = 10

# float64 against float64: the same formula with sums in another order.
FLOAT64 = {"rtol": 1e-10, "atol": 1e-12}

# float32 results of the same kernel, differing in the order of a few sums outside it.
FLOAT32 = {"rtol": 1e-5, "atol": 1e-6}


def error(result: Tensor, truth: Tensor) -> float:
    """Root mean square of the error, which no single entry's luck decides; infinite if any entry is not a number."""
    return (result.double() - truth).square().mean().sqrt().nan_to_num(nan=float("inf")).item()


def rounding(result: Tensor, truth: Tensor) -> float:
    """One rounding to the dtype of the result, which any result owes, even where eager PyTorch is exact by luck."""
    return torch.finfo(result.dtype).eps * truth.square().mean().sqrt().item()
