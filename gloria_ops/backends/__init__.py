"""The registry of backends: which exist, and which one computes a given score, dtype and device."""

import warnings

import torch

from gloria_ops.backends import cpu, cuda, reference, triton
from gloria_ops.backends.contract import Backend
from gloria_ops.learnable import FIXED, Learnable
from gloria_ops.score import LocalScore

# In the order of preference: the automatic choice takes the first that serves. The reference serves everything;
# backends after it are used only by name: no GPU has run the CUDA kernels yet.
BACKENDS: dict[str, Backend] = {cpu.name: cpu, triton.name: triton, reference.name: reference, cuda.name: cuda}

_warnings_given: set[str] = set()


def choose(
    requested: str | None,
    score: LocalScore,
    dtype: torch.dtype,
    device: torch.device,
    learnable: Learnable = FIXED,
) -> str:
    """Return the name of the backend that computes `score` for rows of `dtype` on `device`.

    Args:
        requested: name of a backend; None = the first that serves. A warning says once if that is the reference,
            except for float64, for which the reference is made.

    Raises:
        ValueError: no backend of that name.
        RuntimeError: the backend cannot run on this machine.
        NotImplementedError: the backend lacks this score, dtype or device; the message names one that has it.
    """
    if requested is None:
        return _choose_automatically(score, dtype, device, learnable)
    if requested not in BACKENDS:
        known = ", ".join(map(repr, BACKENDS))
        raise ValueError(f"backend is {requested!r}; expected one of {known}, or None for the automatic choice")
    missing = BACKENDS[requested].unavailable()
    if missing is not None:
        raise RuntimeError(f"backend={requested!r} cannot run here: {missing}; or take backend={reference.name!r}")
    lacking = BACKENDS[requested].unsupported(score, dtype, device, learnable)
    if lacking is not None:
        other = next(name for name in BACKENDS if refusal(name, score, dtype, device, learnable) is None)
        raise NotImplementedError(f"backend={requested!r} does not serve {score}: {lacking}; take backend={other!r}")
    return requested


def refusal(
    name: str, score: LocalScore, dtype: torch.dtype, device: torch.device, learnable: Learnable = FIXED
) -> str | None:
    """Return why the backend `name` does not serve here; None if it does."""
    return BACKENDS[name].unavailable() or BACKENDS[name].unsupported(score, dtype, device, learnable)


def first_that_serves(
    score: LocalScore, dtype: torch.dtype, device: torch.device, learnable: Learnable = FIXED
) -> tuple[str, dict[str, str]]:
    """Return the automatic choice, and why each preferred backend does not serve."""
    refusals: dict[str, str] = {}
    for name in BACKENDS:
        reason = refusal(name, score, dtype, device, learnable)
        if reason is None:
            return name, refusals
        refusals[name] = reason
    raise AssertionError("the reference serves everything")


def _choose_automatically(score: LocalScore, dtype: torch.dtype, device: torch.device, learnable: Learnable) -> str:
    chosen, refusals = first_that_serves(score, dtype, device, learnable)
    caution = BACKENDS[chosen].caution
    if chosen == reference.name and dtype != torch.float64:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in refusals.items())
        caution = (
            f"gloria_ops takes the unfused backend={chosen!r}, slow and hungry for memory, for {dtype} on "
            f"{device.type} ({reasons}); `python -m gloria_ops.doctor` shows what is available"
        )
    if caution and not torch.compiler.is_compiling():
        _warn_once(caution)
    return chosen


def _warn_once(message: str) -> None:
    if message not in _warnings_given:
        _warnings_given.add(message)
        warnings.warn(message, RuntimeWarning, stacklevel=6)
