"""`python -m gloria_ops.doctor` says which backends can run here, and which one each device and dtype gets, and why."""

import platform
import sys
from collections.abc import Iterator

import torch

import gloria_ops
from gloria_ops import LocalScore, backends
from gloria_ops.backends.contract import Backend
from gloria_ops.tokens import DTYPES


def report() -> str:
    """Return the report that `main` prints."""
    title = "Automatic choice, LocalScore.released()"
    return "\n".join([*_machine(), "", "Backends", *_available(), "", title, *_choices()])


def _machine() -> Iterator[str]:
    yield f"gloria_ops {gloria_ops.__version__}, torch {torch.__version__}, Python {platform.python_version()}"
    yield f"{platform.system()} {platform.machine()}, threads: {torch.get_num_threads()}"
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        yield f"cuda:{index} {properties.name}, sm_{properties.major}{properties.minor}"


def _available() -> Iterator[str]:
    for name, backend in backends.BACKENDS.items():
        yield f"  {name:<10} {_state(backend)}"


def _state(backend: Backend) -> str:
    missing = backend.unavailable()
    if missing is not None:
        return f"NOT available: {missing}"
    try:
        return f"available: {backend.describe()}"
    except ValueError as error:
        return f"every call fails: {error}"


def _choices() -> Iterator[str]:
    devices = [torch.device("cpu"), *(torch.device("cuda", index) for index in range(torch.cuda.device_count()))]
    for device in devices:
        for dtype in DTYPES:
            yield f"  {device!s:<7} {str(dtype).removeprefix('torch.'):<9} {_choice(dtype, device)}"


def _choice(dtype: torch.dtype, device: torch.device) -> str:
    chosen, refusals = backends.first_that_serves(LocalScore.released(), dtype, device)
    return "; ".join([chosen, *(f"not {name}: {reason}" for name, reason in refusals.items())])


def main() -> None:
    """Print the report."""
    sys.stdout.write(report() + "\n")


if __name__ == "__main__":
    main()
