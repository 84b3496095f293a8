"""`python -m bench.gpu_model`: modeled times of the GPU kernels, from the instructions of their compiled code.

A model, not a measurement: no GPU is needed, and none was there. Every kernel that a call launches is recorded with its
grid, compiled for sm_90 and sm_80, and disassembled; what its loops issue, multiply and move becomes clocks of a
multiprocessor. The constants below are those of data sheets, but for three that were fitted to published figures:

- STRAIGHT: what code outside a product's loop reaches of the issue rate with one block on a multiprocessor, fitted to
  the 464 TFLOP/s published for Triton's attention (D = 128) on an H100.
- HIDDEN: the share of such code that two blocks on a multiprocessor hide behind each other's products, fitted to the
  526 to 612 TFLOP/s published for the same kernel with warp specialization.
- ELEMENTWISE: what kernels without a product reach of the issue rate.

With them the model is within 2 to 15 % of published rates of Triton's matrix products on both cards.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton

from bench import chunked, cuda_code, cuda_model, gpu_code, gpu_launches
from bench.cases import Case
from bench.gpu_code import Code
from bench.gpu_launches import Launch, Sizes
from bench.report import markdown
from gloria_ops.backends.triton import block_sizes

STRAIGHT, HIDDEN, ELEMENTWISE = 0.6, 0.5, 0.75
# Of code that runs beside products, of the issue rate.
BESIDE = 0.8
# Clocks until the first operands of a loop are there, where nothing else runs meanwhile.
FILL = 1500
# Multiprocessors take so many warp instructions a clock, and so many bytes of shared memory.
ISSUED, SHARED = 4, 128
# Bytes of shared memory that a fragment load of one warp reads.
LDSM = 512


@dataclass(frozen=True)
class GPU:
    """A card: clocks under load, bf16 multiply-adds a clock and multiprocessor, bytes a clock from the second cache."""

    name: str
    capability: int
    processors: int
    ghz: float
    multiply_adds: int
    cache_bytes: int
    memory_tbps: float
    cublas_tflops: float
    shared_bytes: int

    def milliseconds(self, clocks: float) -> float:
        return clocks / self.ghz / 1e6


GPUS = (
    GPU("H100", 90, 132, 1.60, 2048, 5120, 3.0, 750, 227 << 10),
    GPU("A100", 80, 108, 1.35, 1024, 5120, 1.7, 260, 163 << 10),
)


class Work(NamedTuple):
    """What one launch does.

    programs: those that have something to do; the others end at once.
    inner: the inner dimension of the products of one program, over all its blocks; 0 where it has none.
    turns: of its loops, by their depth; a loop with a product within takes those of depth 1.
    bytes: that must come from memory or go there.
    straight: the share of the code outside loops that is run.
    """

    programs: float
    inner: float
    turns: dict[int, float]
    bytes: float
    straight: float = 1.0


class Stage(NamedTuple):
    """A kernel in the whole of a call: launches, their modeled milliseconds, and what sets them."""

    name: str
    launches: int
    milliseconds: float
    bound: str


class Batch(NamedTuple):
    """N images and texts, and the word counts of the texts."""

    sizes: Sizes
    lengths: list[int]

    @classmethod
    def of(cls, case: Case) -> Batch:
        lengths = case.lengths
        return cls(Sizes(case.batch, case.regions, case.batch, sum(lengths), case.width), lengths)


def work_of(launch: Launch, batch: Batch) -> Work:
    """What a launch does, by the kernel's name."""
    return _WORK[launch.name](launch.arguments, launch.grid, batch)


def _itemsize(tensor: Any) -> int:
    """Of a tensor, or of what a descriptor describes."""
    return int(getattr(tensor, "base", tensor).element_size())


def _block_rows(arguments: dict[str, Any]) -> int:
    """Of a block of results."""
    return int(arguments.get("M", arguments["N"]) + arguments.get("TAIL", 0))


def _rows(arguments: dict[str, Any], batch: Batch) -> float:
    """Words of a chunk: texts are cut where one ends, so that all chunks but the last are alike."""
    chunks = arguments["first_texts"].numel() - 1
    return batch.sizes.words / chunks


def _texts(arguments: dict[str, Any], batch: Batch, words: int) -> tuple[float, float]:
    """Texts of a chunk, and the mean number of steps of so many words that one takes."""
    chunks = arguments["first_texts"].numel() - 1
    return len(batch.lengths) / chunks, sum(math.ceil(each / words) for each in batch.lengths) / len(batch.lengths)


def _affinity(a: dict[str, Any], grid: tuple[int, ...], batch: Batch) -> Work:
    rows, itemsize = _rows(a, batch), _itemsize(a["affinities"])
    programs = math.ceil(rows / _block_rows(a)) * math.ceil(a["columns"] / a["N"])
    moved = rows * a["columns"] * itemsize + (rows + a["columns"]) * a["dim"] * _itemsize(a["left"])
    # A program takes one block after the other.
    of_program = math.ceil(programs / grid[0])
    return Work(min(programs, grid[0]), of_program * a["dim"], {1: of_program}, moved)


def _elementwise(reads: int, writes: int) -> Callable[[dict[str, Any], tuple[int, ...], Batch], Work]:
    def work(a: dict[str, Any], grid: tuple[int, ...], batch: Batch) -> Work:
        texts, steps = _texts(a, batch, a["W"])
        values = _rows(a, batch) * grid[1] * a["side"]
        return Work(grid[0] * grid[1] * grid[2], 0, {1: texts / grid[0], 2: texts / grid[0] * steps},
                    values * _itemsize(a["affinities"]) * (reads + writes))  # fmt: skip

    return work


def _by_words(a: dict[str, Any], grid: tuple[int, ...], batch: Batch) -> Work:
    """A kernel over the texts of a chunk that looks at single words, twice at most."""
    texts, steps = _texts(a, batch, a["C"])
    return Work(grid[0] * grid[1], 0, {1: texts / grid[0], 2: texts / grid[0] * steps, 3: 3 * texts / grid[0] * steps},
                8 * 4 * _rows(a, batch) * grid[1])  # fmt: skip


def _gram(a: dict[str, Any], grid: tuple[int, ...], batch: Batch) -> Work:
    blocks = grid[0] * (grid[0] + 1) / 2
    moved = grid[2] * (a["side"] * a["dim"] + a["gram_side"] ** 2) * _itemsize(a["grams"])
    return Work(blocks * grid[2], a["dim"], {1: 1}, moved)


def _square(half: bool) -> Callable[[dict[str, Any], tuple[int, ...], Batch], Work]:
    def work(a: dict[str, Any], grid: tuple[int, ...], batch: Batch) -> Work:
        rows, blocks = _rows(a, batch), math.ceil(a["side"] / a["N"])
        whole = math.ceil(a["side"] / a["K"]) * a["K"]
        lengths = [min((block + 1) * a["N"], whole) if half else whole for block in range(blocks)]
        moved = rows * a["side"] * grid[1] * _itemsize(a["attended"]) * (1 if half else 2)
        return Work(math.ceil(rows / a["M"]) * grid[1], sum(lengths), {1: blocks}, moved)

    return work


def _direct(a: dict[str, Any], grid: tuple[int, ...], batch: Batch) -> Work:
    # Nothing is lost: it reads the squares, and ends.
    return Work(grid[0] * grid[1], 0, {1: 0, 2: 0}, 4 * _rows(a, batch) * grid[1], straight=0.25)


def _direct_gradient(a: dict[str, Any], grid: tuple[int, ...], batch: Batch) -> Work:
    # Nothing is lost: it reads the weights, and ends.
    rows = _rows(a, batch)
    return Work(math.prod(grid), 0, {1: rows / a["LOOKED_AT"], 2: 0}, 4 * rows * grid[2], straight=0.25)


def _fused(a: dict[str, Any], grid: tuple[int, ...], batch: Batch) -> Work:
    blocks = math.ceil(batch.sizes.regions / a["N"])
    programs = math.ceil(batch.sizes.words / a["M"]) * a["images"]
    moved = (batch.sizes.words + a["images"] * a["side"]) * a["dim"] * _itemsize(a["left"])
    return Work(programs, blocks * a["dim"], {1: blocks}, moved)


def _words(a: dict[str, Any], grid: tuple[int, ...], batch: Batch) -> Work:
    rows = _rows(a, batch)
    moved = rows * a["columns"] * _itemsize(a["left"]) + 8 * rows * a["dim"]
    programs = math.ceil(rows / _block_rows(a)) * math.ceil(a["dim"] / a["N"])
    return Work(programs, a["columns"], {1: a["images"]}, moved)


def _regions(a: dict[str, Any], grid: tuple[int, ...], batch: Batch) -> Work:
    rows = _rows(a, batch)
    moved = rows * a["columns"] * _itemsize(a["left"]) + 8 * a["columns"] * a["dim"]
    return Work(grid[0], rows, {1: 1}, moved)


def _gram_gradient(a: dict[str, Any], grid: tuple[int, ...], batch: Batch) -> Work:
    rows, blocks = _rows(a, batch), math.isqrt(grid[0])
    moved = rows * a["side"] * grid[1] * _itemsize(a["attended"])
    return Work(blocks * (blocks + 1) / 2 * grid[1] * grid[2], rows / grid[2], {1: 1}, moved)


def _finish(a: dict[str, Any], grid: tuple[int, ...], batch: Batch) -> Work:
    inner = a["side"] if a["COSINE"] else 0
    values = batch.sizes.regions * grid[2] * a["dim"]
    return Work(grid[0] * grid[1] * grid[2], inner, {1: math.ceil(a["side"] / a["K"]), 2: a["side"] / a["K"]},
                values * (4 + 2))  # fmt: skip


def _pack_regions(a: dict[str, Any], grid: tuple[int, ...], batch: Batch) -> Work:
    return Work(grid[0], 0, {1: a["packed_dim"] / a["STEP"]}, 2 * grid[0] * a["ROWS"] * a["packed_dim"] * 2)


def _pack_words(a: dict[str, Any], grid: tuple[int, ...], batch: Batch) -> Work:
    steps = sum(math.ceil(each / a["ROWS"]) for each in batch.lengths) / len(batch.lengths)
    return Work(grid[0], 0, {1: steps, 2: steps * a["packed_dim"] / a["STEP"]},
                2 * batch.sizes.words * a["packed_dim"] * _itemsize(a["words"]))  # fmt: skip


def _plan(a: dict[str, Any], grid: tuple[int, ...], batch: Batch) -> Work:
    return Work(grid[0], 0, {1: math.ceil(len(batch.lengths) / a["TEXTS"])}, 0)


_WORK: dict[str, Callable[[dict[str, Any], tuple[int, ...], Batch], Work]] = {
    "plan_kernel": _plan,
    "pack_words_kernel": _pack_words,
    "pack_regions_kernel": _pack_regions,
    "gram_kernel": _gram,
    "affinity_kernel": _affinity,
    "attention_kernel": _elementwise(reads=1, writes=1),
    "square_kernel": _square(half=True),
    "gram_product_kernel": _square(half=False),
    "direct_kernel": _direct,
    "direct_product_kernel": _direct,
    "direct_gradient_kernel": _direct_gradient,
    "fused_kernel": _fused,
    "pool_kernel": _by_words,
    "word_coefficient_kernel": _by_words,
    "affinity_gradient_kernel": _elementwise(reads=3, writes=1),
    "words_kernel": _words,
    "regions_kernel": _regions,
    "gram_gradient_kernel": _gram_gradient,
    "finish_kernel": _finish,
}


# A program of these computes one block of products after the other.
_IN_BLOCKS = ("affinity_kernel", "square_kernel", "gram_product_kernel", "fused_kernel")


def milliseconds(gpu: GPU, launch: Launch, code: Code, work: Work) -> tuple[float, str]:
    """Modeled time of one launch, and what sets it."""
    from_memory = work.bytes / gpu.memory_tbps / 1e9
    other = sum(loop.instructions * _turns(loop, code, work) for loop in code.loops if loop not in code.in_products)
    if work.inner:
        taken, bound = _of_products(gpu, launch, code, work, other)
    else:
        issue = other * code.warps * work.programs / (gpu.processors * ISSUED) / ELEMENTWISE
        taken, bound = gpu.milliseconds(issue), "instructions"
    return (from_memory, "memory") if from_memory > taken else (taken, bound)


def _turns(loop: Any, code: Code, work: Work) -> float:
    return work.straight if loop.depth == 0 else work.turns.get(loop.depth, 1.0)


def _of_products(gpu: GPU, launch: Launch, code: Code, work: Work, other: float) -> tuple[float, str]:
    """Clocks of the longest of the pipes in the product's loop, then the rest, hidden or not."""
    a = launch.arguments
    rows, columns, step = _block_rows(a), a["N"], a["K"]
    itemsize = 2 if "bf16" in code.tensor_cores or _bits(launch) == 16 else 4
    turns = work.inner / step
    loop = max(code.in_products, key=lambda each: each.multiply_adds)
    blocks = work.turns.get(1, 1.0) if launch.name in _IN_BLOCKS else 1.0
    in_turn, fills = loop.instructions, max(1.0, blocks)
    if launch.name in _IN_BLOCKS and loop.depth == 1:
        # Loops were made one: what follows a block belongs to its last turn, and the next block's operands come
        # meanwhile.
        in_turn, fills = loop.always, 1.0
        other += (loop.instructions - loop.always) * blocks
    of_turn = rows * columns * step
    filled = (rows + columns) * step * itemsize
    if "wgmma" in code.tensor_cores:
        # Each instruction reads 64 rows and all its columns, which warpgroups share out where rows are too few.
        groups, tail = code.warps // 4, a.get("TAIL", 0)
        of_parts = [(max(groups, part // 64), min(1.0, part / (64 * groups))) for part in (rows - tail, tail) if part]
        read = sum(count * (64 + columns * share) for count, share in of_parts) * step * itemsize
    else:
        read = loop.count("LDSM") * LDSM * code.warps
    pipes = {
        "matrix units": of_turn / gpu.multiply_adds,
        "shared memory": (filled + read) / SHARED,
        "second cache": filled / (gpu.cache_bytes / gpu.processors),
        "instructions": in_turn * code.warps / ISSUED,
    }
    bound = max(pipes, key=lambda name: pipes[name])
    resident = min(
        65536 // (code.registers * code.warps * 32), gpu.shared_bytes // (code.shared_bytes + 1024), 32 // code.warps
    )
    main = turns * pipes[bound]
    if resident > 1:
        clocks = main + HIDDEN * other * code.warps / ISSUED / BESIDE
    else:
        clocks = main + other * code.warps / ISSUED / STRAIGHT + FILL * fills
    # Blocks on a multiprocessor share it; the last of a launch may leave others without work.
    return gpu.milliseconds(math.ceil(work.programs / gpu.processors) * clocks), bound


def _bits(launch: Launch) -> int:
    given = [getattr(value, "base", value) for value in launch.arguments.values()]
    tensors = [value for value in given if isinstance(value, torch.Tensor)]
    return 16 if any(each.dtype == torch.bfloat16 for each in tensors) else 32


def stages(gpu: GPU, launches: list[Launch], batch: Batch) -> Iterator[Stage]:
    """Each kernel of a call, in the order of their first launches."""
    for name in dict.fromkeys(launch.name for launch in launches):
        own = [launch for launch in launches if launch.name == name]
        timed = [milliseconds(gpu, each, gpu_code.code_of(each, gpu.capability), work_of(each, batch)) for each in own]
        yield Stage(name.removesuffix("_kernel"), len(own), sum(ms for ms, _ in timed), timed[0][1])


def launched(gpu: GPU, case: Case, mode: str) -> list[Launch]:
    """What a case launches, in bf16."""
    choice = block_sizes.chosen(gpu.capability, torch.bfloat16, case.score)
    return [launch for launches in _launches(gpu, case, mode, choice) for launch in launches]


def _launches(gpu: GPU, case: Case, mode: str, choice: block_sizes.Choice) -> Iterator[list[Launch]]:
    of = {"forward": gpu_launches.of_forward, "backward": gpu_launches.of_backward}
    for each in ("forward", "backward") if mode == "full" else (mode,):
        yield of[each](Batch.of(case).sizes, torch.bfloat16, case.score, choice)


# What cuBLAS's products with K = 768 reach of its best rate.
OF_CUBLAS = 0.93


def peer_milliseconds(gpu: GPU, case: Case, mode: str) -> float:
    """`bench.chunked` by the same model: the backend's kernels, plain products by cuBLAS, sums of gradients by torch.

    It takes the split way for every score, and no product of its waits for a wave to fill.
    """
    batch = Batch.of(case)
    choice = block_sizes.chosen(gpu.capability, torch.bfloat16, case.score)._replace(way="split")
    affinities = batch.sizes.words * batch.sizes.images * math.ceil(case.regions / 16) * 16
    flops = dict.fromkeys(("affinity", "words", "regions"), 2 * affinities * case.width)
    flops["gram_gradient"] = 2 * affinities * case.regions
    total = 0.0
    for launches in _launches(gpu, case, mode, choice):
        for stage in stages(gpu, launches, batch):
            of_cublas = flops.get(stage.name, 0) / (OF_CUBLAS * gpu.cublas_tflops) / 1e9
            total += of_cublas or stage.milliseconds
            if stage.name == "words":
                # The sum of the words' gradients is read and written, and its addend read, for every chunk of images.
                chunks = max(1, affinities * 2 // chunked.CHUNK_BYTES)
                total += chunks * batch.sizes.words * case.width * 10 / gpu.memory_tbps / 1e9
    return total


CASES = tuple(Case("batch of 1024", batch=1024, side=19, width=768, preset=preset) for preset in ("released", "paper"))


def report(gpu: GPU, case: Case, mode: str) -> str:
    """A table of the stages of one case."""
    batch = Batch.of(case)
    found = list(stages(gpu, launched(gpu, case, mode), batch))
    total = sum(stage.milliseconds for stage in found)
    rate = case.flops(mode) / total / 1e9
    title = (
        f"{gpu.name}, {case.preset}, {mode}, N = {case.batch}: modeled {total:.1f} ms, {rate:.0f} TFLOP/s, "
        f"{100 * rate / gpu.cublas_tflops:.0f} % of the {gpu.cublas_tflops:.0f} of cuBLAS; "
        f"`chunked` {peer_milliseconds(gpu, case, mode):.1f} ms"
    )
    rows = [[each.name, str(each.launches), f"{each.milliseconds:.2f}", each.bound] for each in found]
    return "\n".join([title, "", *markdown(["stage", "launches", "ms", "set by"], rows)])


def instruction_table() -> dict[str, Any]:
    """Of each kernel that ships: what it takes, and its instructions in a product's loop and for an affinity."""
    table: dict[str, Any] = {"triton": triton.__version__, "kernels": {}}
    for gpu in GPUS:
        for case in CASES:
            for mode in ("forward", "backward"):
                for launch in launched(gpu, case, mode):
                    name = f"sm_{gpu.capability} {case.preset} {mode} {launch.name}"
                    if name not in table["kernels"]:
                        table["kernels"][name] = _taken(launch, gpu_code.code_of(launch, gpu.capability))
    return table


def _taken(launch: Launch, code: Code) -> dict[str, Any]:
    taken: dict[str, Any] = {
        "registers": code.registers, "spilled_bytes": code.spilled_bytes, "shared_bytes": code.shared_bytes,
        "warps": code.warps, "tensor_cores": code.tensor_cores,
    }  # fmt: skip
    if code.in_products:
        loop = max(code.in_products, key=lambda each: each.multiply_adds)
        taken["instructions_of_a_product_step"] = loop.instructions
    if {"W", "R"} <= set(launch.arguments):
        values = launch.arguments["W"] * launch.arguments["R"] / (32 * code.warps)
        inner = sum(loop.instructions for loop in code.loops if loop.depth == 2)
        taken["instructions_of_an_affinity"] = round(inner / values, 1)
    return taken


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_model", description=__doc__)
    parser.add_argument("--table", type=Path, help="also write the table of instructions there, as JSON")
    given = parser.parse_args()
    for gpu in GPUS:
        for case in CASES:
            for mode in ("forward", "backward", "full"):
                print(report(gpu, case, mode), end="\n\n", flush=True)
    print("CUDA C++ kernels", end="\n\n")
    print(cuda_code.missing() or cuda_model.report(CASES))
    if given.table:
        given.table.write_text(json.dumps(instruction_table(), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
