"""Modeled times of the CUDA C++ kernels, from the instructions of their compiled code; printed by `bench.gpu_model`.

A model, not a measurement: no GPU was there. One block fills a multiprocessor. A step of a product takes as long as the
busiest of the matrix units, the shared memory and the instructions, once its operands have come from the second cache;
code outside the products runs at its own rate, and beside it the products of the other groups of warps, as far as the
stages in shared memory or their barriers let them come apart, and those that a warpgroup has issued before
(`cuda_timeline`).
Instructions are those of the shortest way through the compiled code that does the wanted work, so that what a text's
end in the middle of a tile adds (a few exchanges) is not among them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import NamedTuple

from bench import cuda_code
from bench.cases import Case
from bench.cuda_code import Instruction
from bench.cuda_timeline import Phase, clocks_of_item
from bench.report import markdown
from gloria_ops.backends.cuda.gradients import (
    BYTES_OF_SUM,
    CUBLAS_BLOCK,
    GRAM_BLOCK,
    WORKSPACE_BYTES,
    sizes_of_chunk,
)

# Of the kernels (csrc/cuda/problem.h).
WORDS, SLOT, ROWS, KEPT_ROWS = 128, 8, 128, 16


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
    exponentials: float = 16
    # Clocks from a request of a stage until its first byte is there.
    latency: float = 800
    # Of the issue rate: code outside products with one block on a multiprocessor, all that is issued where code and
    # products run side by side, and kernels without products.
    straight: float = 0.6
    beside: float = 0.8
    elementwise: float = 0.75
    # What plain products reach of cuBLAS's best rate.
    of_cublas: float = 0.93
    # What mma.sync reaches of the matrix units: on an H100, 62.9 % were measured (arXiv:2501.12084).
    by_warps: float = 1


CARDS = (
    Card("H100", "sm_90a", 132, 1.60, 2048, 5120 / 132, 3.0, 750, by_warps=0.629),
    Card("A100", "sm_80", 108, 1.35, 1024, 5120 / 108, 1.7, 260),
)


class Blocks(NamedTuple):
    """A block of a kernel with products: words, regions of a pass, depth of a step, warps; words and regions that one
    warp or, by wgmma, four of them multiply at a time; groups of warps that do not wait for each other between steps;
    blocks that share the regions; stages of shared memory forward and for backward; steps that run while their warps
    go on; whether all meet at every step."""

    words: int
    regions: int
    depth: int
    warps: int
    words_at_once: int
    regions_at_once: int
    groups: int = 1
    sharing: int = 1
    stages: tuple[int, int] = (3, 3)
    ahead: int = 0
    lockstep: bool = False


# By architecture, and whether words are rows: without a norm over words, and by the dot product.
BLOCKS = {
    ("sm_80", False): Blocks(128, 128, 32, 8, 64, 32, groups=2, lockstep=True),
    ("sm_80", True): Blocks(256, 128, 64, 8, 64, 64),
    ("sm_90a", False): Blocks(128, 128, 64, 8, 128, 64, groups=2, sharing=2, stages=(4, 3), ahead=1),
    ("sm_90a", True): Blocks(128, 368, 64, 8, 64, 368, groups=2, sharing=2, ahead=1),
}


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
    ends: frozenset[int] = frozenset(),
    first: int | None = None,
) -> list[Instruction]:
    """The shortest way through the code, among those with most of each kind of `wanted`.

    Args:
        code: in the order of addresses. A jump back to its beginning, and one out of the code, end the way.
        wanted: beginnings of names, each with a sign: -1 = as few as possible. The first counts most.
        ends: addresses of instructions before which it ends.
        first: address where the way begins; the beginning of the code, unless given.
    """
    end, place = len(code), {each.address: number for number, each in enumerate(code)}

    def after(number: int) -> list[int]:
        each = code[number]
        found = [] if each.target is None else [place.get(each.target, end)]
        if each.conditional or not each.name.startswith(("BRA", "EXIT", "RET")):
            found.append(number + 1)
        return [end if other < end and code[other].address in ends else other for other in found or [end]]

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
            back = {other for other in reached if other in forward and other not in left}
            forward[number] = [
                end if other == start else other for other in reached if other == start or other not in back
            ]
            stack += [other for other in forward[number] if other not in forward and other != end]
        else:
            stack.pop()
            if number not in left:
                left.add(number)
                order.append(number)
    best: dict[int, tuple[int, ...]] = {start: (0,) * (len(wanted) + 1)}
    before: dict[int, int] = {}
    for number in reversed(order):
        each, so_far = code[number], best[number]
        gained = [sign * each.name.startswith(kind) for kind, sign in wanted]
        now = (*(a + b for a, b in zip(so_far, gained, strict=False)), so_far[-1] - 1)
        for other in forward[number]:
            if other not in best or now > best[other]:
                best[other], before[other] = now, number
    way, number = [], end
    while number != start:
        number = before[number]
        way.append(code[number])
    return way[::-1]


class Counts(NamedTuple):
    """Instructions of a warp: of a step of the affinities; of a pass for its attention and for |c|^2, in the parts
    between which steps of the next product are issued; of an item, behind its last pass."""

    step: int
    attention: list[int]
    form: list[int]
    finish: int


def parts(code: list[Instruction], way: list[Instruction]) -> list[int]:
    """Instructions of the way, cut where it goes past a product."""
    products = [each.address for each in code if each.name.startswith(cuda_code.PRODUCTS)]
    cuts = [
        number
        for number, (one, other) in enumerate(pairwise(way), 1)
        if any(one.address < address < other.address for address in products)
    ]
    return [b - a for a, b in pairwise([0, *cuts, len(way)])]


def _kernel(architecture: str, name: str) -> list[Instruction]:
    compiled = cuda_code.instructions().items()
    return next(code for (found, kernel), code in compiled if found == architecture and name in kernel)


@cache
def counts(architecture: str, cosine: bool, keep: bool) -> Counts:
    """Of the bf16 kernel of `released`, or else `paper`; `keep`: of that of backward."""
    released = f"forwardIN3gpu8BFloat16ELNS_8WordNormE1ELb1ELb1ELb{keep:d}"
    code = _kernel(architecture, released if cosine else f"rows{architecture[3:5]}7forwardIN3gpu8BFloat16ELb{keep:d}")
    loops = cuda_code.product_spans(code)
    loop = cuda_code.inside(code, *loops[0])
    step = shortest(loop, (*((name, 1) for name in cuda_code.PRODUCTS), ("LDGSTS", 1)))
    if cosine and architecture == "sm_80":
        # A turn of the loop multiplies, another copies. Around it is the loop over what is left of any product.
        step += shortest(loop, (("LDGSTS", 1),))
        loops = [cuda_code.around(code, *loops[0])]
    products = frozenset(each.address for span in loops for each in cuda_code.inside(code, *span))
    # From behind a loop to it again.
    behind = [next(each.address for each in code if each.address > last) for _, last in loops]
    # The last pass goes on to the root in |c|; words as rows have their finish in every pass.
    attention = shortest(code, (("MUFU.EX2", 1), ("MUFU.RSQ", -1), ("FMNMX", 1)), products, behind[0])
    form = shortest(code, (("MUFU.EX2", -1), ("SHFL", 1)), products, behind[-1]) if cosine else []
    item = shortest(code, (("MUFU.EX2", -1), ("MUFU.RSQ", 1), ("SHFL", 1)), products, behind[-1]) if cosine else []
    return Counts(
        len(step),
        parts(code, attention),
        parts(code, form),
        len(item) - len(form),
    )


@cache
def gradient_instructions(architecture: str, cosine: bool) -> float:
    """For a value, in the elementwise kernel: of a warp, on the way through the loop over the rows of a tile."""
    name = f"affinity_gradientIN3gpu8BFloat16ELNS_8WordNormE{cosine:d}ELb{cosine:d}"
    code = _kernel("sm_90" if architecture == "sm_90a" else architecture, name)
    loops = [(each.target, each.address) for each in code if each.target is not None and each.target < each.address]
    stores = [span for span in loops if any(e.name.startswith("STG") for e in cuda_code.inside(code, *span))]
    first, last = min(stores, key=lambda span: span[1] - span[0])
    return len(shortest(cuda_code.inside(code, first, last), (("STG", 1),))) / SLOT


@cache
def gram_step_instructions(architecture: str) -> int:
    """Of a warp, for a step of the kernel for gG."""
    code = _kernel("sm_90" if architecture == "sm_90a" else architecture, "gram_gradient")
    loop = cuda_code.inside(code, *cuda_code.product_spans(code)[0])
    return len(shortest(loop, (*((name, 1) for name in cuda_code.PRODUCTS), ("LDGSTS", 1))))


def of_products(card: Card, case: Case, keep: bool) -> Stage:
    """The kernel that makes the affinities and the attention, of all tiles with all images."""
    cosine = case.score.similarity == "cosine"
    blocks = BLOCKS[card.architecture, not cosine]
    instructions = counts(card.architecture, cosine, keep)
    passes = math.ceil(case.regions / blocks.regions)
    row = 2 * blocks.depth
    at_once = blocks.words * blocks.regions / (blocks.words_at_once * blocks.regions_at_once)

    def pipes(words: int) -> dict[str, float]:
        """Clocks of a step that so many words are fetched for."""
        read = at_once * (blocks.words_at_once + blocks.regions_at_once)
        return {
            "matrix units": blocks.words * blocks.regions * blocks.depth / card.multiply_adds,
            "shared memory": (words + blocks.regions + read) * row / card.shared_memory,
            "instructions": instructions.step * blocks.warps / card.issued,
            "second cache": (words + blocks.regions / blocks.sharing) * row / card.second_cache,
        }

    def clocks(code: list[int], exponentials: int = 0) -> tuple[float, ...]:
        """Of the parts of the code, for one group."""
        issue = sum(code) * blocks.warps / card.issued / card.straight
        whole = max(issue, exponentials * blocks.words * blocks.regions / card.exponentials) / blocks.groups
        return tuple(whole * part / sum(code) for part in code)

    def phase(steps: int, words: int, code: tuple[float, ...], issued: str) -> Phase:
        *own, fetch = pipes(words).values()
        return Phase(steps, fetch, max(own) / blocks.groups, code, issued if cosine else "")

    of_words = pipes(blocks.words)
    bound = max(of_words, key=of_words.__getitem__)
    attention = clocks(instructions.attention, 1 + cosine)
    phases = [phase(case.width // blocks.depth, blocks.words, attention, "between")] * passes
    if cosine:
        # The words' side is the attention, on chip; forward takes the blocks of G up to the diagonal.
        form, (finish,) = clocks(instructions.form), clocks([instructions.finish])
        phases[-1] = phases[-1]._replace(meets=True)
        first = "" if keep or passes == 1 or blocks.lockstep else "before"
        for number in range(passes):
            steps = (passes if keep else number + 1) * blocks.regions // blocks.depth
            phases.append(phase(steps, 0, form, "between" if number else first))
        phases[-1] = phases[-1]._replace(meets=True, behind=finish)
    calls = _chunks(card, case) if keep else [(case.batch, tiles(case.lengths), 1)]
    waves = sum(
        times * math.ceil(math.ceil(of_tiles / (blocks.words // WORDS)) * images / card.processors)
        for images, of_tiles, times in calls
    )
    of_item = clocks_of_item(phases, blocks.groups, card.latency, blocks.stages[keep], blocks.ahead, blocks.lockstep)
    issued = instructions.step * sum(phase.steps for phase in phases) + instructions.finish
    issued += passes * (sum(instructions.attention) + sum(instructions.form))
    clocks = waves * max(of_item, issued * blocks.warps / card.issued / card.beside)
    return Stage("affinities", clocks / card.ghz / 1e6, bound)


def of_gradient(card: Card, case: Case) -> Stage:
    """The elementwise kernel."""
    cosine = case.score.similarity == "cosine"
    values = tiles(case.lengths) * WORDS * case.batch * _height(case)
    from_memory = values * (8 if cosine else 4) / card.memory_tbps / 1e9
    instructions = values / 32 * gradient_instructions(card.architecture, cosine)
    issue = instructions / (card.processors * card.issued * card.elementwise) / card.ghz / 1e6
    return Stage("gradient", max(from_memory, issue), "memory" if from_memory > issue else "instructions")


def _side(case: Case) -> int:
    return math.ceil(case.regions / ROWS) * ROWS


def _height(case: Case) -> int:
    """Rows of an image in the matrices of backward."""
    return math.ceil(case.regions / KEPT_ROWS) * KEPT_ROWS


def of_cublas(card: Card, case: Case) -> Iterator[Stage]:
    """The plain products, chunk by chunk, with what their last wave leaves idle, and the sums read and written."""
    height = _height(case)
    chunks = [(images, of_tiles * WORDS, times) for images, of_tiles, times in _chunks(card, case)]

    def product(rows: int, inner: int) -> float:
        blocks = math.ceil(rows / CUBLAS_BLOCK[0]) * math.ceil(case.width / CUBLAS_BLOCK[1])
        waves = math.ceil(blocks / card.processors) * card.processors / blocks
        multiplied = 2 * rows * inner * case.width / (card.of_cublas * card.cublas_tflops) / 1e9 * waves
        return multiplied + BYTES_OF_SUM * rows * case.width / card.memory_tbps / 1e9

    of_words = sum(times * product(columns, count * height) for count, columns, times in chunks)
    of_regions = sum(times * product(count * height, columns) for count, columns, times in chunks)
    yield Stage("gT", of_words, "matrix units")
    yield Stage("gV", of_regions, "matrix units")


def of_gram_gradient(card: Card, case: Case) -> Stage:
    """The kernel for gG, chunk by chunk: two blocks of four warps on a multiprocessor, 64 rows and columns a warp."""
    depth, warps, warp = 64, 4, 64
    down = _side(case) // GRAM_BLOCK
    squares = down * (down + 1) // 2
    # Rows that are read for a block; one on the diagonal needs its own only.
    rows = GRAM_BLOCK * down * down / squares
    instructions = gram_step_instructions(card.architecture)
    pipes = {
        "matrix units": GRAM_BLOCK**2 * depth / (card.multiply_adds * card.by_warps),
        "shared memory": (rows + warps * 2 * warp) * 2 * depth / card.shared_memory,
        "instructions": instructions * warps / card.issued / card.beside,
        "second cache": rows * 2 * depth / card.second_cache,
    }
    bound = max(pipes, key=pipes.__getitem__)
    clocks, moved = 0.0, 0.0
    for images, of_tiles, times in _chunks(card, case):
        waves = math.ceil(images * squares / card.processors)
        clocks += times * waves * of_tiles * WORDS / depth * pipes[bound]
        moved += times * images * squares * GRAM_BLOCK**2 * BYTES_OF_SUM
    return Stage("gG", clocks / card.ghz / 1e6 + moved / card.memory_tbps / 1e9, bound)


def _chunks(card: Card, case: Case) -> list[tuple[int, int, int]]:
    """Images and tiles of the chunks of backward, each with how often it occurs."""
    cosine, height, all_tiles = case.score.similarity == "cosine", _height(case), tiles(case.lengths)
    values = WORKSPACE_BYTES // (4 if cosine else 2)
    sizes = sizes_of_chunk(case.batch, all_tiles, height, WORDS, case.width, values, card.processors, cosine)
    return [
        (images, of_tiles, number * times)
        for images, number in _parts(case.batch, sizes[0])
        for of_tiles, times in _parts(all_tiles, sizes[1])
    ]


def _parts(whole: int, most: int) -> list[tuple[int, int]]:
    """Sizes of the parts of at most so many that something is divided into, each with how often it occurs."""
    return [(size, times) for size, times in ((most, whole // most), (whole % most, 1)) if size * times]


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
            if case.score.similarity == "cosine":
                yield of_gram_gradient(card, case)


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
