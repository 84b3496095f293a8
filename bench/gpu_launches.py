"""The Triton kernels that a call launches, recorded on tensors without memory: no GPU is needed, and nothing runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

import torch
from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import JITFunction

from gloria_ops import LocalScore
from gloria_ops.backends.triton import gradients, scores
from gloria_ops.backends.triton.block_sizes import INTERPRETED, Choice
from gloria_ops.learnable import FIXED, Learnable
from gloria_ops.tokens import Ragged

_OPTIONS = ("num_warps", "num_stages")


class Launch(NamedTuple):
    """One launch: the kernel, its grid, what it is called with by name, and the options of the compiler."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    options: dict[str, int]

    @property
    def name(self) -> str:
        return str(self.kernel.fn.__name__)

    def again(self) -> None:
        """Launch it once more, with the same tensors."""
        self.kernel[self.grid](**self.arguments, **self.options)


class Sizes(NamedTuple):
    """Images with `regions` rows each, `texts` with `words` rows in all, width D."""

    images: int
    regions: int
    texts: int
    words: int
    width: int


def sides(sizes: Sizes, dtype: torch.dtype) -> tuple[Ragged, Ragged]:
    """Both sides of such a batch, on the device without memory."""

    def side(count: int, rows: int) -> Ragged:
        starts, lengths = (torch.empty(count, dtype=torch.int64, device="meta") for _ in range(2))
        return Ragged(torch.empty(rows, sizes.width, dtype=dtype, device="meta"), starts, lengths)

    return side(sizes.images, sizes.images * sizes.regions), side(sizes.texts, sizes.words)


def of_forward(
    sizes: Sizes, dtype: torch.dtype, score: LocalScore, choice: Choice, learnable: Learnable = FIXED
) -> list[Launch]:
    """What forward launches."""
    images, texts = sides(sizes, dtype)
    return recorded(lambda: scores.forward(images, texts, score, choice, learnable), runs=False)


def of_backward(
    sizes: Sizes, dtype: torch.dtype, score: LocalScore, choice: Choice, learnable: Learnable = FIXED
) -> list[Launch]:
    """What backward launches."""
    images, texts = sides(sizes, dtype)
    grad_scores = torch.empty(sizes.images, sizes.texts, device="meta")
    return recorded(lambda: gradients.backward(grad_scores, images, texts, score, choice, learnable), runs=False)


def recorded(step: Callable[[], object], runs: bool) -> list[Launch]:
    """What a call launches, and, if it `runs`, does on the GPU at hand."""
    launches: list[Launch] = []
    kind = InterpretedFunction if INTERPRETED else JITFunction
    launch_it = kind.run

    def run(kernel: Any, *positional: Any, grid: Any, warmup: bool, **named: Any) -> Any:
        options = {name: named[name] for name in _OPTIONS if name in named}
        arguments = {name: value for name, value in named.items() if name not in _OPTIONS}
        launches.append(Launch(kernel, tuple(grid), arguments, options))
        if runs:
            return launch_it(kernel, *positional, grid=grid, warmup=warmup, **named)
        return None

    with mock.patch.object(kind, "run", run):
        step()
    return launches
