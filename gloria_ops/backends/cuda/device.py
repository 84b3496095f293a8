"""The extension of the CUDA kernels and the GPU that it runs on, or the emulation of both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

kernels: ModuleType | None
import_error = ""
try:
    from gloria_ops import _cuda as kernels  # type: ignore[attr-defined,no-redef]
except ImportError as error:
    kernels = None
    import_error = str(error)


class Emulated(NamedTuple):
    """The GPU that the emulator stands for."""

    processors: int
    hopper: bool


emulated: Emulated | None = None


@contextmanager
def emulated_by(module: ModuleType, processors: int = 2, hopper: bool = False) -> Iterator[None]:
    """Run `module`, the same sources compiled for the emulator, on CPU tensors; for tests.

    Args:
        module: what stands in for the extension.
        processors: of the GPU that is emulated.
        hopper: it runs code for sm_90a.
    """
    global kernels, emulated
    before = kernels, emulated
    kernels, emulated = module, Emulated(processors, hopper)
    try:
        yield
    finally:
        kernels, emulated = before


def loaded() -> ModuleType:
    """The extension, which the registry has asked for."""
    assert kernels is not None, "the registry asks `unavailable` first"
    return kernels


def processors(rows: Tensor) -> int:
    """Blocks that run at once."""
    return emulated.processors if emulated else torch.cuda.get_device_properties(rows.device).multi_processor_count


def device_of(rows: Tensor) -> object:
    """What the launchers are told: the GPU of these rows and the current stream."""
    if emulated:
        return loaded().Device(processors=emulated.processors, hopper=emulated.hopper, stream=0)
    return loaded().Device(
        processors=processors(rows),
        hopper=torch.cuda.get_device_capability(rows.device) == (9, 0),
        stream=torch.cuda.current_stream(rows.device).cuda_stream,
    )


def dtype_of(rows: Tensor) -> object:
    """The dtype as the kernels name it."""
    return getattr(loaded().DType, str(rows.dtype).removeprefix("torch."))


def empty(like: Tensor, *shape: int, dtype: torch.dtype) -> Tensor:
    """Uninitialized memory on the same device."""
    return torch.empty(shape, dtype=dtype, device=like.device)


def zeros(like: Tensor, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Zeros on the same device."""
    return torch.zeros(shape, dtype=dtype, device=like.device)
