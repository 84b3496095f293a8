"""Compiling a kernel for a GPU that is not there, and reading what it takes of it."""

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


class Resources(NamedTuple):
    registers: int
    spilled_bytes: int
    stack_bytes: int
    shared_bytes: int
    tensor_cores: str


def compiled(
    kernel: Any, capability: int, types: dict[str, str], constants: dict[str, Any], warps: int, stages: int
) -> Resources:
    """What `kernel` takes on sm_`capability`; `types` of the runtime arguments, ":16" after those that 16 divides."""
    signature, attributes = {}, {}
    for position, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
            continue
        signature[name], divided, _ = types[name].partition(":16")
        if divided:
            attributes[(position,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constexprs=constants, attrs=attributes)
    binary = triton.compile(
        source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps, "num_stages": stages}
    )
    ptx = binary.asm["ptx"]
    used = _resource_usage(binary.asm["cubin"])
    return Resources(
        registers=used["REG"],
        spilled_bytes=used["LOCAL"],
        stack_bytes=used["STACK"],
        shared_bytes=binary.metadata.shared,
        tensor_cores=next((name for name in ("tcgen05.mma", "wgmma.mma_async", "mma.sync") if name in ptx), ""),
    )


def _resource_usage(cubin: bytes) -> dict[str, int]:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        printed = subprocess.run(
            [tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    return {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", printed)}
