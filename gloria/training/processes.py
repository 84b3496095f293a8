"""Coordinates the processes that train together: work of the first process for all, and shared values."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather

from gloria.lock import only_writer

Found = TypeVar("Found")


def on_first_process(compute: Callable[[], Found]) -> Found:
    """Return on every process what the first one computes.

    Args:
        compute: called on the first process only, while the others wait; its value must be picklable. Every process
            raises its ValueError or OSError.
    """
    found: list[Any] = [None, None]
    if PartialState().is_main_process:
        try:
            found[0] = compute()
        except (ValueError, OSError) as error:
            found[1] = error
    computed, refusal = broadcast_object_list(found)
    if refusal is not None:
        raise refusal
    return computed


@contextmanager
def only_run(out: str | Path, cpu: bool) -> Iterator[None]:
    """Hold the lock of a run folder, one for all processes, see `gloria.lock.only_writer`.

    Args:
        out: the run folder.
        cpu: the processes use no accelerator.
    """
    PartialState(cpu=cpu)  # joins the processes that torchrun has started, if any
    with ExitStack() as held:
        on_first_process(lambda: held.enter_context(only_writer(out)))
        yield


def highest_of_all(value: int) -> int:
    """Return on every process the highest of the processes' values."""
    state = PartialState()
    if state.num_processes == 1:
        return value
    return int(gather(torch.tensor([value], device=state.device)).max())
