"""`python -m gloria_ops.tune --out FILE` times other block sizes of the Triton kernels on this machine's GPU.

It writes the shipped table with faster choices in this GPU's rows. To use it, set GLORIA_OPS_BLOCKS=FILE; to ship it,
replace gloria_ops/backends/triton/block_sizes.json.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from triton.runtime.errors import OutOfResources, PTXASError
from triton.testing import do_bench

from gloria_ops.backends.triton import block_sizes, gradients, scores
from gloria_ops.backends.triton.block_sizes import ELEMENTWISE, PRODUCTS, Choice
from gloria_ops.score import LocalScore
from gloria_ops.tokens import Ragged

# One score of each kind.
SCORES = {"plain": LocalScore.paper(0.1, 0.2), "normed": LocalScore.released()}
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
# A change must gain more than the difference between two timings of the same choice.
LEAST_GAIN = 0.02


def neighbors(choice: Choice, name: str, kind: str) -> Iterator[Choice]:
    """Yield choices that differ in one size of one kernel by a factor of two, or in its warps or stages.

    `name` is a field of the choice; "way" has the other way as its only neighbor.
    """
    if name == "way":
        others = [choice._replace(way="split" if choice.way == "fused" else "fused")]
    else:
        own: Any = getattr(choice, name)
        sizes = [size for size in own._fields if size not in ("stages", "described")]
        changed = [own._replace(**{size: getattr(own, size) // 2}) for size in sizes if getattr(own, size) > 1]
        changed += [own._replace(**{size: getattr(own, size) * 2}) for size in sizes]
        if name in PRODUCTS:
            changed += [own._replace(stages=stages) for stages in (own.stages - 1, own.stages + 1)]
        feasible = filter(_is_feasible, changed)
        others = [_with_shared_columns(choice._replace(**{name: blocks}), name) for blocks in feasible]
    yield from (other for other in others if other.misfit(kind) is None)


def _with_shared_columns(choice: Choice, name: str) -> Choice:
    """Give two kernels that must share their columns the same number."""
    if name == "square":
        return choice._replace(gram=choice.gram._replace(columns=choice.square.columns))
    if name == "gram":
        return choice._replace(square=choice.square._replace(columns=choice.gram.columns))
    return choice


def _is_feasible(blocks: Any) -> bool:
    return 1 <= blocks.warps <= 8 and 1 <= getattr(blocks, "stages", 1) <= 5


def faster(
    choice: Choice, name: str, kind: str, milliseconds: Callable[[Choice], float], say: Callable[[str], None]
) -> Choice:
    """Step to the best neighbor until none is faster by more than `LEAST_GAIN`."""
    best = milliseconds(choice)
    say(f"{best:9.3f} ms  {choice}")
    while True:
        timed = [(milliseconds(other), other) for other in neighbors(choice, name, kind)]
        least, other = min(timed, key=lambda each: each[0], default=(best, choice))
        if least > (1 - LEAST_GAIN) * best:
            return choice
        best, choice = least, other
        say(f"{best:9.3f} ms  {choice}")


def tuned(
    dtype: torch.dtype, score: LocalScore, batch: int, regions: int, width: int, say: Callable[[str], None]
) -> Choice:
    """Return the fastest choice found for a batch of random images and texts of 5 to 97 words.

    Args:
        dtype: dtype of the rows.
        score: score to compute.
        batch: number of images, and of texts.
        regions: regions of each image.
        width: D.
        say: called with a line for each faster choice.
    """
    device = torch.device("cuda")
    random = torch.Generator().manual_seed(0)
    lengths = torch.randint(5, 98, (batch,), generator=random)
    v = (torch.randn(batch * regions, width, generator=random) * width**-0.25).to(device, dtype)
    t = (torch.randn(int(lengths.sum()), width, generator=random) * width**-0.25).to(device, dtype)
    starts = torch.arange(batch) * regions, lengths.cumsum(0) - lengths
    images = Ragged(v, starts[0].to(device), torch.full((batch,), regions, device=device))
    texts = Ragged(t, starts[1].to(device), lengths.to(device))
    grad_scores = torch.randn(batch, batch, generator=random).to(device)

    def of_forward(choice: Choice) -> float:
        return _milliseconds(lambda: scores.forward(images, texts, score, choice))

    def of_backward(choice: Choice) -> float:
        return _milliseconds(lambda: gradients.backward(grad_scores, images, texts, score, choice))

    kind = block_sizes.kind(score)
    choice = block_sizes.chosen_for(device, dtype, score)
    for name in ("way", "fused", "square"):
        choice = faster(choice, name, kind, of_forward, say)
    for name in ("product", "regions", "gram", *ELEMENTWISE):
        choice = faster(choice, name, kind, of_backward, say)
    return choice


def _milliseconds(step: Callable[[], object]) -> float:
    """Return the median time of a call, infinite if these blocks do not fit the GPU."""
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
    table = dict(block_sizes.read(block_sizes.SHIPPED))
    major, minor = torch.cuda.get_device_capability()
    for name in given.dtypes:
        for kind in given.kinds:
            print(f"{name} {kind}", flush=True)
            dtype = DTYPES[name]
            found = tuned(
                dtype, SCORES[kind], given.batch, given.regions, given.width, lambda line: print(line, flush=True)
            )
            table[10 * major + minor, 8 * dtype.itemsize, kind] = found
            block_sizes.write(given.out, table)
    print(f"wrote {given.out}; GLORIA_OPS_BLOCKS={given.out} uses it")


if __name__ == "__main__":
    main()
