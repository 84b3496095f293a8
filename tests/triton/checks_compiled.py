"""Every kernel configuration that ships, compiled for sm_80, sm_90: no spills, on tensor cores, in shared memory."""

import json
import os
from pathlib import Path

import pytest
import triton
from compiling import compiled
from shipped import cases

# What a block may have of the shared memory of A100 and H100.
SHARED_BYTES = {80: 163 << 10, 90: 227 << 10}
# Bytes of stack that a release of Triton other than 3.6, which the blocks were chosen with, is known to spill.
KNOWN_SPILLS = {
    "3.9": {
        "sm_80 float32 highest released forward_kernel gram": 80,
        "sm_80 float32 highest released forward_kernel gram for backward": 56,
        "sm_80 float32 highest released forward_kernel direct": 96,
        "sm_90 bfloat16 paper forward_kernel direct for backward": 56,
        "sm_90 float16 paper forward_kernel direct for backward": 56,
        "sm_90 bfloat16 scan_t2i affinity_gradient_kernel": 16,
    },
}
# `python -m pytest tests/triton/checks_compiled.py` writes the table there when GLORIA_OPS_RESOURCES names a file.
TABLE = os.environ.get("GLORIA_OPS_RESOURCES")

_taken: dict[str, dict[str, object]] = {}


@pytest.mark.parametrize("capability", SHARED_BYTES)
def test_kernels_keep_to_the_device(capability):
    known = KNOWN_SPILLS.get(triton.__version__.rpartition(".")[0], {})
    wrong = []
    for case in cases(capability):
        taken = compiled(case.kernel, capability, case.types, case.constants, case.blocks.warps, case.blocks.stages)
        _taken[case.name] = taken._asdict()
        if taken.spilled_bytes or taken.stack_bytes > known.get(case.name, 0):
            wrong.append(f"{case.name} spills: {taken}")
        if taken.shared_bytes > SHARED_BYTES[capability]:
            wrong.append(f"{case.name} takes more shared memory than there is: {taken}")
        if case.tensor_cores and not taken.tensor_cores:
            wrong.append(f"{case.name} does not run on tensor cores: {taken}")
    assert not wrong, "\n".join(wrong)
    if TABLE:
        Path(TABLE).write_text(json.dumps({"triton": triton.__version__, "kernels": _taken}, indent=1) + "\n")
