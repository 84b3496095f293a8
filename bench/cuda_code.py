"""What nvcc made of the CUDA kernels: the instructions of each, and its loops, from the extension that was built."""

import os
import re
import shutil
import subprocess
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import NamedTuple

import gloria_ops


class Instruction(NamedTuple):
    """One of a kernel: its address, its name with all suffixes, where it branches to, or None, and whether always."""

    address: int
    name: str
    target: int | None
    conditional: bool = False


PRODUCTS = ("HMMA", "HGMMA")  # on tensor cores
Kernels = dict[tuple[str, str], list[Instruction]]


def missing() -> str | None:
    """Return why there is nothing to read; None if there is."""
    if not list(Path(gloria_ops.__file__).parent.glob("_cuda.*.so")):
        return "gloria_ops._cuda is not built: there was no nvcc >= 12.4"
    if shutil.which("cuobjdump", path=_path()) is None:
        return "cuobjdump is not installed: a CUDA toolkit or Triton brings it"
    return None


def resources() -> dict[tuple[str, str], dict[str, int]]:
    """Return the registers (REG), stack, shared and local bytes of each architecture and kernel."""
    found, architecture, kernel = {}, "", ""
    for line in _dump("-res-usage").splitlines():
        if match := re.search(r"arch = (sm_\d+a?)", line):
            architecture = match[1]
        if match := re.search(r"Function (\S+):", line):
            kernel = match[1]
        if "REG:" in line:
            found[architecture, kernel] = {key: int(value) for key, value in re.findall(r"([A-Z]+):(\d+)", line)}
    return found


@cache
def instructions() -> Kernels:
    """Return the instructions of each architecture and kernel, by its mangled name."""
    found: Kernels = defaultdict(list)
    meeting: dict[str, int | None] = {}
    architecture = kernel = ""
    pattern = re.compile(r"/\*([0-9a-f]+)\*/\s+(@!?U?P\w+ )?([A-Z][A-Zx0-9_.]+)\s*([^;]*);")
    for line in _dump("-sass").splitlines():
        if match := re.search(r"arch = (sm_\d+a?)", line):
            architecture = match[1]
        elif match := re.search(r"Function : (\S+)", line):
            kernel = match[1]
        elif match := pattern.search(line):
            branch = re.search(r"0x([0-9a-f]+)\s*$", match[4]) if match[3].startswith(("BRA", "BSSY")) else None
            target = int(branch[1], 16) if branch else None
            # Where lanes come together again: what BSSY names is where BSYNC leads.
            if match[3].startswith("BSSY"):
                meeting[match[4].split(",")[0]], target = target, None
            if match[3].startswith("BSYNC"):
                target = meeting.get(match[4].strip())
            # `BRA.U !UP0, ...` has its condition among the operands; BRA.DIV is for warps whose lanes went apart.
            conditional = match[2] is not None or "P" in match[4].split(",")[0] or match[3] in ("BRA.DIV", "BSYNC")
            found[architecture, kernel].append(Instruction(int(match[1], 16), match[3], target, conditional))
    return found


def product_loops(code: list[Instruction]) -> list[list[str]]:
    """Return the names of the instructions of each innermost loop of those that multiply on tensor cores."""
    return [[each.name for each in inside(code, *span)] for span in product_spans(code)]


def inside(code: list[Instruction], first: int, last: int) -> list[Instruction]:
    """Return the instructions from one address to another."""
    return [each for each in code if first <= each.address <= last]


def product_spans(code: list[Instruction]) -> list[tuple[int, int]]:
    """Return the first and last address of each such loop."""
    spans = {(each.target, each.address) for each in code if each.target is not None and each.target < each.address}
    addresses = [each.address for each in code if each.name.startswith(PRODUCTS)]
    products = [span for span in sorted(spans) if any(span[0] <= each <= span[1] for each in addresses)]
    jumps = [(each.address, each.target) for each in code if each.target is not None]

    # Loops around it are longer; so is what waits apart from a loop and jumps back into its middle, or leads into it.
    def leads_to_shorter(first: int, last: int) -> bool:
        targets = [target for address, target in jumps if first <= address <= last]
        return any(
            b - a < last - first and ((a <= last and first <= b) or any(a <= target <= b for target in targets))
            for a, b in products
        )

    return [span for span in products if not leads_to_shorter(*span)]


def around(code: list[Instruction], first: int, last: int) -> tuple[int, int]:
    """Return the first and last address of the smallest loop around a loop."""
    spans = [(each.target, each.address) for each in code if each.target is not None and each.target < each.address]
    return min((span for span in spans if span[0] < first and last < span[1]), key=lambda span: span[1] - span[0])


def _path() -> str:
    """Where the tools are: in PATH, or in Triton, which brings them."""
    try:
        import triton
    except ImportError:
        return os.environ["PATH"]
    return f"{os.environ['PATH']}:{Path(triton.__file__).parent / 'backends' / 'nvidia' / 'bin'}"


def _dump(option: str) -> str:
    extension = next(Path(gloria_ops.__file__).parent.glob("_cuda.*.so"))
    tool = shutil.which("cuobjdump", path=_path())
    assert tool is not None, "ask `missing` first"
    environment = {**os.environ, "PATH": _path()}
    return subprocess.run([tool, option, extension], capture_output=True, text=True, check=True, env=environment).stdout
