"""The registry of backends: which exist, and which one computes a given score, dtype and device.

A fused backend is a module with `name`, `unavailable()` (why it cannot run on this machine, and the fix; None = it
can), `unsupported(score, dtype, device)` (what it lacks for them; None = nothing), `describe()` (a line for the
doctor), `caution` (what is said once where it is chosen automatically, or None), `attended_of_any_length` (whether the
items that attention runs over may be packed with unequal lengths), and `forward` and `backward` over the canonical form
of `gloria_ops.tokens`, for direction t2i; forward takes the number of words of a search, too, or 0. "reference" is no
such module: `gloria_ops.reference` is plain autograd code, has every knob and dtype on every device, and never passes
through the custom ops.
"""

import warnings
from types import ModuleType

import torch

from gloria_ops.backends import cpu, cuda, triton
from gloria_ops.score import LocalScore

REFERENCE = "reference"
FUSED: dict[str, ModuleType] = {cpu.name: cpu, triton.name: triton, cuda.name: cuda}
# In the order of preference: the automatic choice takes the first that serves. The CUDA kernels, which no GPU has run,
# are taken by name only.
AUTOMATIC = (cpu.name, triton.name)

_said: set[str] = set()


def choose(requested: str | None, score: LocalScore, dtype: torch.dtype, device: torch.device) -> str:
    """The name of the backend that computes `score` for rows of `dtype` on `device`.

    Args:
        requested: a name, which is either served or refused; None = the first that serves. Stepping down to the
            reference is said once by a warning, except for float64, which the reference is for.

    Raises:
        ValueError: no backend of that name.
        RuntimeError: the backend cannot run on this machine.
        NotImplementedError: the backend lacks this score, dtype or device; the message names one that has it.
    """
    if requested is None:
        return _automatic(score, dtype, device)
    if requested == REFERENCE:
        return requested
    if requested not in FUSED:
        known = ", ".join(map(repr, [*FUSED, REFERENCE]))
        raise ValueError(f"backend is {requested!r}; expected one of {known}, or None for the automatic choice")
    missing = FUSED[requested].unavailable()
    if missing is not None:
        raise RuntimeError(f"backend={requested!r} cannot run here: {missing}; or take backend={REFERENCE!r}")
    lacking = FUSED[requested].unsupported(score, dtype, device)
    if lacking is not None:
        other = next((name for name in FUSED if refusal(name, score, dtype, device) is None), REFERENCE)
        raise NotImplementedError(f"backend={requested!r} does not serve {score}: {lacking}; take backend={other!r}")
    return requested


def refusal(name: str, score: LocalScore, dtype: torch.dtype, device: torch.device) -> str | None:
    """Why the fused backend `name` does not serve here; None if it does."""
    return FUSED[name].unavailable() or FUSED[name].unsupported(score, dtype, device)


def _automatic(score: LocalScore, dtype: torch.dtype, device: torch.device) -> str:
    reasons = []
    for name in AUTOMATIC:
        reason = refusal(name, score, dtype, device)
        if reason is None:
            if FUSED[name].caution and not torch.compiler.is_compiling():
                _say_once(FUSED[name].caution)
            return name
        reasons.append(f"{name}: {reason}")
    if dtype != torch.float64 and not torch.compiler.is_compiling():
        _say_once(
            f"gloria_ops takes the unfused backend={REFERENCE!r}, slow and hungry for memory, for {dtype} on "
            f"{device.type} ({'; '.join(reasons)}); `python -m gloria_ops.doctor` shows what is available"
        )
    return REFERENCE


def _say_once(message: str) -> None:
    if message not in _said:
        _said.add(message)
        warnings.warn(message, RuntimeWarning, stacklevel=5)
