"""Kernels compiled for a GPU that is not there: what they take of it, and the instructions of their loops."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.tools.tensor_descriptor import TensorDescriptor

from bench.gpu_launches import Launch

_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
_NAMES = {
    torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32", torch.int8: "i8",
    torch.int32: "i32", torch.int64: "i64",
}  # fmt: skip
_INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(@!?U?P\w+\s+)?(.*?);")
_LABEL = re.compile(r"^(\.L_x?_?\w+):")
_BRANCH = re.compile(r"BRA(?:\.\w+)*\s.*?`\((\.L_x?_?\w+)\)")
# Multiply-adds of one matrix instruction by one warp.
_WARPGROUP = re.compile(r"HGMMA\.64x(\d+)x(\d+)")
_WARP = re.compile(r"HMMA\.(\d{4,})")
_SHAPES = {"16816": 16 * 8 * 16, "1688": 16 * 8 * 8, "1684": 16 * 8 * 4}


class Loop(NamedTuple):
    """Instructions of one warp in one turn of a loop, those of the loops within it left out.

    depth: 0 = the code outside every loop; always: instructions on the shortest way through it, which are those of
    every turn where the others belong to some turns only; multiply_adds: of the matrix instructions.
    """

    depth: int
    instructions: int
    always: int
    multiply_adds: int
    counts: dict[str, int]

    def count(self, *kinds: str) -> int:
        """Instructions whose names begin with one of these."""
        return sum(count for name, count in self.counts.items() if name.startswith(kinds))


@dataclass(frozen=True)
class Code:
    """What a kernel takes of a GPU."""

    registers: int
    spilled_bytes: int
    shared_bytes: int
    warps: int
    tensor_cores: str
    cubin: bytes

    @cached_property
    def loops(self) -> tuple[Loop, ...]:
        """In the order of the code, that outside them first. The disassembler takes 0.2 s to start."""
        return loops(_tool("nvdisasm", self.cubin, "-c", "-ndf"))

    @property
    def in_products(self) -> tuple[Loop, ...]:
        """The loops that feed the matrix units."""
        return tuple(loop for loop in self.loops if loop.multiply_adds and loop.depth)

    def narrow_loads(self) -> int:
        """Global loads of less than 4 bytes in loops that feed the matrix units: what a wrong mask makes of a tile."""
        return sum(
            count
            for loop in self.in_products
            for name, count in loop.counts.items()
            if name.startswith(("LDG", "LDGSTS")) and re.search(r"\.[US](8|16)\b", name)
        )


class Specialization(NamedTuple):
    """What a kernel is compiled for: types, constants and divisors of its arguments, and the compiler's options."""

    types: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, Any], ...]
    divided: tuple[int, ...]
    options: tuple[tuple[str, int], ...]


def specialization(launch: Launch) -> Specialization:
    """As Triton's launcher specializes: integers that 16 divides, those that are 1, and aligned tensors."""
    types, constants, divided = [], [], []
    for position, parameter in enumerate(launch.kernel.params):
        value = launch.arguments[parameter.name]
        specialized = not parameter.do_not_specialize
        if parameter.is_constexpr or (specialized and type(value) is int and value == 1):
            types.append((parameter.name, "constexpr"))
            constants.append((parameter.name, value))
            continue
        types.append((parameter.name, _type(value)))
        if isinstance(value, torch.Tensor) or (specialized and isinstance(value, int) and value % 16 == 0):
            divided.append(position)
    return Specialization(tuple(types), tuple(constants), tuple(divided), tuple(sorted(launch.options.items())))


def code_of(launch: Launch, capability: int) -> Code:
    """A recorded launch, compiled for sm_`capability`."""
    return _compiled(launch.kernel, specialization(launch), capability)


@cache
def _compiled(kernel: Any, special: Specialization, capability: int) -> Code:
    attributes = {(position,): [["tt.divisibility", 16]] for position in special.divided}
    source = ASTSource(kernel, dict(special.types), constexprs=dict(special.constants), attrs=attributes)
    binary = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=dict(special.options))
    printed = _tool("cuobjdump", binary.asm["cubin"], "--dump-resource-usage")
    used = {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", printed)}
    ptx = binary.asm["ptx"]
    return Code(
        registers=used["REG"],
        spilled_bytes=used["LOCAL"] + used["STACK"],
        shared_bytes=binary.metadata.shared,
        warps=binary.metadata.num_warps,
        tensor_cores=next((name for name in ("tcgen05.mma", "wgmma.mma_async", "mma.sync") if name in ptx), ""),
        cubin=binary.asm["cubin"],
    )


def _type(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"*{_NAMES[value.dtype]}"
    if isinstance(value, TensorDescriptor):
        return f"tensordesc<{_NAMES[value.base.dtype]}{value.block_shape}>"
    if isinstance(value, float):
        return "fp32"
    return "i32" if -(1 << 31) <= value < 1 << 31 else "i64"


def _tool(name: str, cubin: bytes, *options: str) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([_TOOLS / name, *options, file.name], capture_output=True, text=True, check=True).stdout


def loops(listing: str) -> tuple[Loop, ...]:
    """The loops of a disassembled kernel: the natural ones, for waits lie behind the code and branch back into it."""
    instructions: list[str] = []
    always: list[bool] = []
    labels: dict[str, int] = {}
    for line in listing.splitlines():
        label = _LABEL.match(line.strip())
        if label:
            labels[label.group(1)] = len(instructions)
        found = _INSTRUCTION.match(line)
        if found:
            instructions.append(found.group(2).strip())
            always.append(found.group(1) is None)
    ends = {i + 1 for i, each in enumerate(instructions) if each.startswith(("BRA", "EXIT"))}
    starts = sorted({0, *labels.values(), *ends} - {len(instructions)})
    blocks = dict(zip(starts, [*starts[1:], len(instructions)], strict=True))
    following: dict[int, list[int]] = {}
    for start, end in blocks.items():
        last = instructions[end - 1]
        branch = _BRANCH.match(last)
        stays = not (last.startswith(("BRA", "EXIT")) and always[end - 1])
        following[start] = [end] if stays and end in blocks else []
        following[start] += [labels[branch.group(1)]] if branch else []
    bodies = _natural_loops(following)
    depths = {start: [header for header, body in bodies.items() if start in body] for start in blocks}
    of_loop: dict[int | None, list[str]] = {None: [], **{header: [] for header in sorted(bodies)}}
    for start, end in blocks.items():
        innermost = min(depths[start], key=lambda header: len(bodies[header]), default=None)
        of_loop[innermost] += instructions[start:end]
    found = [_loop(0, of_loop.pop(None), None)]
    for header, own in of_loop.items():
        always = _shortest_turn(header, {start: following[start] for start in bodies[header]}, blocks)
        found.append(_loop(len(depths[header]), own, always))
    return tuple(found)


def _shortest_turn(header: int, following: dict[int, list[int]], blocks: dict[int, int]) -> int:
    """Instructions of the shortest way from the header of a loop back to it."""
    least = {header: blocks[header] - header}
    changed = True
    while changed:
        changed = False
        for block, length in list(least.items()):
            for other in following[block]:
                if other in following and other != header:
                    through = length + blocks[other] - other
                    if through < least.get(other, through + 1):
                        least[other], changed = through, True
    return min(length for block, length in least.items() if header in following[block])


def _natural_loops(following: dict[int, list[int]]) -> dict[int, set[int]]:
    """By header the blocks of each loop: those that reach a branch back to a block that dominates the branch."""
    reached = _reachable(following, 0)
    dominated = {header: reached - _reachable(following, 0, without=header) for header in reached}
    before: dict[int, list[int]] = {}
    for block in reached:
        for other in following[block]:
            before.setdefault(other, []).append(block)
    bodies: dict[int, set[int]] = {}
    for header in reached:
        back = [block for block in before.get(header, []) if block in dominated[header]]
        body = bodies.setdefault(header, {header}) if back else set()
        while back:
            block = back.pop()
            if block not in body:
                body.add(block)
                back += before.get(block, [])
    return bodies


def _reachable(following: dict[int, list[int]], start: int, without: int | None = None) -> set[int]:
    found, open_blocks = set(), [start]
    while open_blocks:
        block = open_blocks.pop()
        if block != without and block not in found:
            found.add(block)
            open_blocks += following[block]
    return found


def _loop(depth: int, instructions: list[str], always: int | None) -> Loop:
    counts = Counter(each.split()[0] for each in instructions if not each.startswith("NOP"))
    total = sum(counts.values())
    return Loop(
        depth,
        total,
        total if always is None else min(always, total),
        sum(_multiply_adds(name) * n for name, n in counts.items()),
        dict(counts),
    )


def _multiply_adds(name: str) -> int:
    warpgroup, warp = _WARPGROUP.match(name), _WARP.match(name)
    if warpgroup:
        return 64 * int(warpgroup.group(1)) * int(warpgroup.group(2)) // 4
    return _SHAPES.get(warp.group(1), 0) if warp else 0
