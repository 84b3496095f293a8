"""Modeled times of the CUDA C++ kernels, from the instructions of their compiled code; printed by `bench.gpu_model`.

A model, not a measurement: no GPU was there. A step of a product takes as long as the busiest of the matrix units, the
shared memory, the second cache and the instructions. Code outside the products is added to that: one block fills a
multiprocessor, and nothing else hides it. Instructions are those of the shortest way through the compiled code that
does the wanted work, so that what a text's end in the middle of a tile adds (a few exchanges) is not among them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

from bench import cuda_code
from bench.cases import Case
from bench.cuda_code import Instruction
from bench.report import markdown

# Of the kernels (csrc/cuda/problem.h) and of backward's workspace (gloria_ops/backends/cuda/gradients.py).
WORDS, SLOT, ROWS, GRADIENT_ROWS = 128, 8, 128, 64
WORKSPACE_BYTES = 384 << 20
# A block of 64 reaches 1.8 D regions; rows of an operand of cuBLAS's usual tile.
CUBLAS_ROWS, CUBLAS_COLUMNS = 128, 256


@dataclass(frozen=True)
class Card:
    """What a card does and what code reaches of it; `bench.gpu_model` says where the numbers are from.

    Multiply-adds in bf16, instructions and bytes of caches are those of a multiprocessor in a clock.
    """

    name: str
    architecture: str
    processors: int
    ghz: float
    multiply_adds: float
    second_cache: float
    memory_tbps: float
    cublas_tflops: float
    shared_memory: float = 128
    issued: float = 4
    # Of the issue rate: code outside products with one block on a multiprocessor, and kernels without products.
    straight: float = 0.6
    elementwise: float = 0.75
    # What plain products reach of cuBLAS's best rate.
    of_cublas: float = 0.93


CARDS = (
    Card("H100", "sm_90a", 132, 1.60, 2048, 5120 / 132, 3.0, 750),
    Card("A100", "sm_80", 108, 1.35, 1024, 5120 / 108, 1.7, 260),
)


class Blocks(NamedTuple):
    """A block of a kernel with products: regions of a pass, depth of a step, warps, rows that one of them or, by wgmma,
    four of them multiply at a time, blocks that share the regions, bytes that are fetched for each row of a step."""

    rows: int
    depth: int
    warps: int
    rows_at_once: int
    sharing: int


BLOCKS = {"sm_80": Blocks(128, 32, 8, 16, 1), "sm_90a": Blocks(192, 64, 12, 64, 2)}


class Stage(NamedTuple):
    """A part of a call: modeled milliseconds, and what sets them."""

    name: str
    milliseconds: float
    bound: str


def tiles(lengths: list[int]) -> int:
    """Tiles that the plan fills (csrc/cuda/plan.h): long texts, then each with the largest that still fit."""
    slots = sorted((math.ceil(each / SLOT) for each in lengths if each <= WORDS), reverse=True)
    count = sum(math.ceil(each / WORDS) for each in lengths if each > WORDS)
    while slots:
        room, rest = WORDS // SLOT, []
        for need in slots:
            if need <= room:
                room -= need
            else:
                rest.append(need)
        slots, count = rest, count + 1
    return count


def shortest(
    code: list[Instruction],
    wanted: tuple[tuple[str, int], ...],
    uncounted: frozenset[int] = frozenset(),
    first: int | None = None,
) -> int:
    """Instructions of the shortest way through the code, among those with most of each kind of `wanted`.

    Args:
        code: in the order of addresses. A jump back into the way, and one out of the code, end it.
        wanted: beginnings of names, each with a sign: -1 = as few as possible. The first counts most.
        uncounted: addresses of instructions that do not count.
        first: address where the way begins; the beginning of the code, unless given.
    """
    end, place = len(code), {each.address: number for number, each in enumerate(code)}

    def after(number: int) -> list[int]:
        each = code[number]
        found = [] if each.target is None else [place.get(each.target, end)]
        if each.conditional or not each.name.startswith(("BRA", "EXIT", "RET")):
            found.append(number + 1)
        return found or [end]

    # Depth first: what is entered and not yet left when a jump reaches it is jumped back to.
    order: list[int] = []
    forward: dict[int, list[int]] = {}
    left = {end}
    start = 0 if first is None else place[first]
    stack = [start]
    while stack:
        number = stack[-1]
        if number not in forward:
            reached = after(number)
            forward[number] = [end if other in forward and other not in left else other for other in reached]
            stack += [other for other in forward[number] if other not in forward and other != end]
        else:
            stack.pop()
            if number not in left:
                left.add(number)
                order.append(number)
    best: dict[int, tuple[int, ...]] = {start: (0,) * (len(wanted) + 1)}
    for number in reversed(order):
        each, so_far = code[number], best[number]
        gained = [sign * each.name.startswith(kind) for kind, sign in wanted]
        counts = each.address not in uncounted
        now = (*(a + b for a, b in zip(so_far, gained, strict=False)), so_far[-1] - counts)
        for other in forward[number]:
            best[other] = max(best.get(other, now), now)
    return -best[end][-1]


class Counts(NamedTuple):
    """Instructions of a warp: of a step of the affinities; of a pass for its attention and for |c|^2."""

    step: int
    attention: int
    form: int


@cache
def _code() -> cuda_code.Kernels:
    return cuda_code.instructions()


def _kernel(architecture: str, name: str) -> list[Instruction]:
    return next(code for (found, kernel), code in _code().items() if found == architecture and name in kernel)


@cache
def counts(architecture: str, cosine: bool, keep: bool) -> Counts:
    """Of the bf16 kernel of `released`, or else `paper`; `keep`: of that of backward."""
    name = f"forwardIN3gpu8BFloat16ELNS_8WordNormE{cosine:d}ELb{cosine:d}ELb{cosine:d}ELb{keep:d}"
    code = _kernel(architecture, name)
    loops = cuda_code.product_spans(code)
    products = frozenset(each.address for span in loops for each in cuda_code.inside(code, *span))
    # From behind a loop to it again.
    behind = [next(each.address for each in code if each.address > last) for _, last in loops]
    return Counts(
        shortest(cuda_code.inside(code, *loops[0]), (("HMMA", 1), ("HGMMA", 1), ("LDGSTS", 1))),
        shortest(code, (("MUFU.EX2", 1), ("FMNMX", 1)), products, behind[0]),
        shortest(code, (("MUFU.EX2", -1), ("SHFL", 1)), products, behind[-1]) if cosine else 0,
    )


@cache
def gradient_instructions(architecture: str, cosine: bool) -> float:
    """For a value, in the elementwise kernel: of a warp, on the way through the loop over the rows of a tile."""
    name = f"affinity_gradientIN3gpu8BFloat16ELNS_8WordNormE{cosine:d}ELb{cosine:d}"
    code = _kernel("sm_90" if architecture == "sm_90a" else architecture, name)
    loops = [(each.target, each.address) for each in code if each.target is not None and each.target < each.address]
    stores = [span for span in loops if any(e.name.startswith("STG") for e in cuda_code.inside(code, *span))]
    first, last = min(stores, key=lambda span: span[1] - span[0])
    return shortest(cuda_code.inside(code, first, last), (("STG", 1),)) / SLOT


def of_products(card: Card, case: Case, keep: bool) -> Stage:
    """The kernel that makes the affinities and the attention, of all tiles with all images."""
    blocks, cosine = BLOCKS[card.architecture], case.score.similarity == "cosine"
    instructions = counts(card.architecture, cosine, keep)
    passes = math.ceil(case.regions / blocks.rows)

    def step(right_on_chip: bool) -> tuple[float, str]:
        row = 2 * blocks.depth
        fetched = blocks.rows / blocks.sharing * row + (0 if right_on_chip else WORDS * row)
        filled = blocks.rows * row + (0 if right_on_chip else WORDS * row)
        read = blocks.rows * row + blocks.rows / blocks.rows_at_once * WORDS * row
        pipes = {
            "matrix units": blocks.rows * WORDS * blocks.depth / card.multiply_adds,
            "shared memory": (filled + read) / card.shared_memory,
            "second cache": fetched / card.second_cache,
            "instructions": instructions.step * blocks.warps / card.issued,
        }
        bound = max(pipes, key=lambda name: pipes[name])
        return pipes[bound], bound

    of_step, bound = step(right_on_chip=False)
    clocks = passes * math.ceil(case.width / blocks.depth) * of_step
    straight = passes * (instructions.attention + instructions.form)
    if cosine:
        steps = passes * blocks.rows // blocks.depth
        # Forward takes the blocks of G up to the diagonal.
        of_form = steps * passes if keep else sum((n + 1) * blocks.rows // blocks.depth for n in range(passes))
        clocks += of_form * step(right_on_chip=True)[0]
    clocks += straight * blocks.warps / card.issued / card.straight
    items = tiles(case.lengths) * case.batch
    return Stage("affinities", math.ceil(items / card.processors) * clocks / card.ghz / 1e6, bound)


def of_gradient(card: Card, case: Case) -> Stage:
    """The elementwise kernel."""
    cosine = case.score.similarity == "cosine"
    values = tiles(case.lengths) * WORDS * case.batch * _side(case)
    from_memory = values * (10 if cosine else 4) / card.memory_tbps / 1e9
    instructions = values / 32 * gradient_instructions(card.architecture, cosine)
    issue = instructions / (card.processors * card.issued * card.elementwise) / card.ghz / 1e6
    return Stage("gradient", max(from_memory, issue), "memory" if from_memory > issue else "instructions")


def _side(case: Case) -> int:
    return math.ceil(case.regions / ROWS) * ROWS


def of_cublas(card: Card, case: Case) -> Iterator[Stage]:
    """The plain products, chunk by chunk, with what their last wave leaves idle, and the sums read and written."""
    cosine, side = case.score.similarity == "cosine", _side(case)
    values = WORKSPACE_BYTES // (6 if cosine else 2)
    images = max(1, min(case.batch, math.isqrt(values) // side))
    columns = min(tiles(case.lengths), values // (images * side * WORDS)) * WORDS
    chunks = math.ceil(case.batch / images) * math.ceil(tiles(case.lengths) * WORDS / columns)

    def product(name: str, rows: int, inner: int, width: int, batch: int, bytes_of_sum: int) -> Stage:
        blocks = math.ceil(rows / CUBLAS_ROWS) * math.ceil(width / CUBLAS_COLUMNS) * batch
        waves = math.ceil(blocks / card.processors) * card.processors / blocks
        multiplied = 2 * rows * inner * width * batch / (card.of_cublas * card.cublas_tflops) / 1e9 * waves
        summed = rows * width * batch * bytes_of_sum / card.memory_tbps / 1e9
        return Stage(name, chunks * (multiplied + summed), "matrix units")

    # A product is written, and read to be added to a sum.
    yield product("gT", columns, images * side, case.width, 1, 16)
    yield product("gV", images * side, columns, case.width, 1, 16)
    if cosine:
        yield product("gG", side, columns, side, images, 16)


def of_grams(card: Card, case: Case) -> Stage:
    """G of each image, made anew by each direction, and what torch does to it elementwise: 34 bytes a value."""
    side = _side(case)
    multiplied = 2 * side * side * case.width / (0.5 * card.cublas_tflops) / 1e9
    return Stage("Gram matrices", case.batch * (multiplied + 34 * side * side / card.memory_tbps / 1e9), "memory")


def of_packing(card: Card, case: Case) -> Stage:
    """Both sides read, and written in their places; regions once more as float16."""
    rows = case.batch * _side(case) * 3 + tiles(case.lengths) * WORDS
    return Stage("packing", 2 * 2 * rows * case.width / card.memory_tbps / 1e9, "memory")


def stages(card: Card, case: Case, mode: str) -> Iterator[Stage]:
    """The parts of a call, those below a hundredth left out: plan, pool, coefficients of words, launches."""
    for direction in ("forward", "backward") if mode == "full" else (mode,):
        yield of_packing(card, case)
        if case.score.similarity == "cosine":
            yield of_grams(card, case)
        yield of_products(card, case, keep=direction == "backward")
        if direction == "backward":
            yield of_gradient(card, case)
            yield from of_cublas(card, case)


def share(card: Card, case: Case, mode: str) -> float:
    """Of the card's rate of cuBLAS, by the flops that count."""
    total = sum(stage.milliseconds for stage in stages(card, case, mode))
    return case.flops(mode) / total / 1e9 / card.cublas_tflops


# One constant at a time.
VARIED = (
    {"straight": 0.45},
    {"straight": 0.8},
    {"second_cache": 0.75},
    {"shared_memory": 0.8},
    {"memory_tbps": 0.85},
    {"of_cublas": 0.85},
)
_RELATIVE = ("second_cache", "shared_memory", "memory_tbps")


def varied(card: Card, change: dict[str, float]) -> Card:
    """A card with one constant changed: by a factor, where it is a rate."""
    return replace(card, **{key: getattr(card, key) * x if key in _RELATIVE else x for key, x in change.items()})


def report(cases: tuple[Case, ...]) -> str:
    """The parts of every call, and what the share of cuBLAS's rate becomes where a constant is another."""
    calls = [(card, case, mode) for card in CARDS for case in cases for mode in ("forward", "full")]
    parts = []
    for card, case, mode in calls:
        found = list(stages(card, case, mode))
        total = sum(stage.milliseconds for stage in found)
        parts.append(
            f"{card.name}, {case.preset}, {mode}, N = {case.batch}: modeled {total:.1f} ms, "
            f"{100 * share(card, case, mode):.0f} % of the {card.cublas_tflops:.0f} TFLOP/s of cuBLAS\n"
        )
        rows = [[each.name, f"{each.milliseconds:.2f}", each.bound] for each in found]
        parts.append("\n".join(markdown(["stage", "ms", "set by"], rows)) + "\n")
    rows = []
    for change in ({}, *VARIED):
        name = next((f"{key} {'x ' * (key in _RELATIVE)}{x:g}" for key, x in change.items()), "as above")
        rows.append([name, *(f"{100 * share(varied(card, change), case, mode):.0f} %" for card, case, mode in calls)])
    header = ["constant", *(f"{card.name} {case.preset} {mode}" for card, case, mode in calls)]
    return "\n".join([*parts, *markdown(header, rows)])
