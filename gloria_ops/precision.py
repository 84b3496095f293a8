"""Keeps scores and losses in float32 or float64, whatever the dtype of the rows and autocast."""

import torch


def score_dtype(*dtypes: torch.dtype) -> torch.dtype:
    """Return the dtype of scores of rows of these dtypes: float64 if one of them is float64, else float32."""
    return torch.float64 if torch.float64 in dtypes else torch.float32


def no_autocast(device: torch.device) -> torch.autocast:
    """Switch autocast off where precision must not be lost."""
    return torch.autocast(device.type, enabled=False)
