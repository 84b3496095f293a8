"""`python -m gloria_ops.tune --out FILE`: times other block sizes of the Triton kernels on the GPU at hand.

Writes the table that ships, with the rows of this GPU replaced where another choice was faster. To use it, set
GLORIA_OPS_BLOCKS=FILE; to ship it, put it in place of gloria_ops/backends/triton/blocks.json.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from triton.runtime.errors import OutOfResources, PTXASError
from triton.testing import do_bench

from gloria_ops.backends.triton import launch, launch_backward, settings
from gloria_ops.backends.triton.settings import Blocks, Choice
from gloria_ops.score import LocalScore

# What stands for each kind of score.
SCORES = {"apart": LocalScore.paper(0.1, 0.2), "softmax": LocalScore.released(), "other": LocalScore.scan_t2i()}
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
# A change must gain more than what two timings of the same thing differ by.
LEAST_GAIN = 0.02


def neighbours(choice: Choice, kernel: str) -> Iterator[Choice]:
    """Choices that differ from one in one size of one kernel, by a factor of two, or in its warps or stages."""
    own: Blocks = getattr(choice, kernel)
    changed = [
        own._replace(**{size: value})
        for size in ("rows", "columns", "step", "warps")
        for value in (getattr(own, size) // 2, getattr(own, size) * 2)
    ]
    changed += [own._replace(stages=stages) for stages in (own.stages - 1, own.stages + 1)]
    for blocks in changed:
        if not (4 <= blocks.warps <= 8 and 1 <= blocks.stages <= 5 and max(blocks[:3]) <= 256 and blocks.step <= 128):
            continue
        change: dict[str, Any] = {kernel: blocks}
        other = choice._replace(**change)
        if kernel == "forward":
            # The tiles of words are those of the gradient's kernel too.
            other = other._replace(gradient=other.gradient._replace(columns=blocks.columns))
        if other.misfit() is None:
            yield other
    if kernel == "forward":
        yield choice._replace(programs=3 - choice.programs)  # one or two on a multiprocessor


def faster(choice: Choice, kernel: str, milliseconds: Callable[[Choice], float], say: Callable[[str], None]) -> Choice:
    """Steps to the best neighbour until none is faster by more than `LEAST_GAIN`."""
    best = milliseconds(choice)
    say(f"{best:9.3f} ms  {choice}")
    while True:
        timed = [(milliseconds(other), other) for other in neighbours(choice, kernel)]
        least, other = min(timed, key=lambda each: each[0], default=(best, choice))
        if least > (1 - LEAST_GAIN) * best:
            return choice
        best, choice = least, other
        say(f"{best:9.3f} ms  {choice}")


def tuned(
    dtype: torch.dtype, score: LocalScore, batch: int, regions: int, width: int, say: Callable[[str], None]
) -> Choice:
    """The fastest choice found for a batch of random images and texts of 5 to 97 words.

    Args:
        dtype: of the rows.
        score: what is computed.
        batch: images, and texts.
        regions: of each image.
        width: D.
        say: takes a line for each choice that was faster.
    """
    device = torch.device("cuda")
    random = torch.Generator().manual_seed(0)
    lengths = torch.randint(5, 98, (batch,), generator=random)
    v = (torch.randn(batch * regions, width, generator=random) * width**-0.25).to(device, dtype)
    t = (torch.randn(int(lengths.sum()), width, generator=random) * width**-0.25).to(device, dtype)
    starts = torch.arange(batch) * regions, lengths.cumsum(0) - lengths
    inputs = v, starts[0].to(device), torch.full((batch,), regions, device=device), t, starts[1].to(device)
    grad_scores = torch.randn(batch, batch, generator=random).to(device)

    def of_forward(choice: Choice) -> float:
        return _milliseconds(lambda: launch.forward(launch.problem(*inputs, lengths.to(device), score, choice)))

    def of_backward(choice: Choice) -> float:
        def step() -> tuple[Tensor, Tensor]:
            problem = launch.problem(*inputs, lengths.to(device), score, choice)
            return launch_backward.backward(problem, grad_scores)

        return _milliseconds(step)

    choice = settings.blocks(device, dtype, score)
    choice = faster(choice, "forward", of_forward, say)
    for kernel in ("gradient", "product"):
        choice = faster(choice, kernel, of_backward, say)
    return choice


def _milliseconds(step: Callable[[], object]) -> float:
    """Median of a call, infinite where these blocks do not fit the GPU."""
    try:
        return float(do_bench(step, warmup=50, rep=200, return_mode="median"))
    except (OutOfResources, PTXASError):
        return float("inf")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m gloria_ops.tune", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="file to write the table to")
    parser.add_argument("--kinds", nargs="+", choices=SCORES, default=[*SCORES])
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=[*DTYPES])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--regions", type=int, default=361)
    parser.add_argument("--width", type=int, default=768)
    given = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("there is no CUDA device to time on")
    table = dict(settings.read(settings.SHIPPED))
    major = torch.cuda.get_device_capability()[0]
    for name in given.dtypes:
        for kind in given.kinds:
            print(f"{name} {kind}", flush=True)
            dtype = DTYPES[name]
            found = tuned(
                dtype, SCORES[kind], given.batch, given.regions, given.width, lambda line: print(line, flush=True)
            )
            table[major, 8 * dtype.itemsize, kind] = found
            settings.write(given.out, table)
    print(f"wrote {given.out}; GLORIA_OPS_BLOCKS={given.out} uses it")


if __name__ == "__main__":
    main()
