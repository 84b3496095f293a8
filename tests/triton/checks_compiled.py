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
# `python -m pytest tests/triton/checks_compiled.py` writes the table there when GLORIA_OPS_RESOURCES names a file.
TABLE = os.environ.get("GLORIA_OPS_RESOURCES")

_taken: dict[str, dict[str, object]] = {}


@pytest.mark.parametrize("capability", SHARED_BYTES)
def test_kernels_keep_to_the_device(capability):
    wrong = []
    for case in cases(capability):
        taken = compiled(case.kernel, capability, case.types, case.constants, case.blocks.warps, case.blocks.stages)
        _taken[case.name] = taken._asdict()
        if taken.spilled_bytes or taken.stack_bytes:
            wrong.append(f"{case.name} spills: {taken}")
        if taken.shared_bytes > SHARED_BYTES[capability]:
            wrong.append(f"{case.name} takes more shared memory than there is: {taken}")
        if case.tensor_cores and not taken.tensor_cores:
            wrong.append(f"{case.name} does not run on tensor cores: {taken}")
    assert not wrong, "\n".join(wrong)
    if TABLE:
        lines = ",\n".join(f'  "{name}": {json.dumps(taken)}' for name, taken in _taken.items())
        Path(TABLE).write_text(f'{{\n "triton": "{triton.__version__}",\n "kernels": {{\n{lines}\n }}\n}}\n')
