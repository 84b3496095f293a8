"""What one of the processes that train together does for all of them."""

from collections.abc import Callable
from typing import TypeVar

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

Found = TypeVar("Found")


def on_first_process(compute: Callable[[], Found]) -> Found:
    """What the first process computes, on all of them; a process alone just computes it.

    Args:
        compute: called on the first process only, while the others wait; its value must be one to be pickled.
    """
    found = [compute() if PartialState().is_main_process else None]
    return broadcast_object_list(found)[0]
