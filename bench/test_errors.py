"""Is the fused score as exact as eager PyTorch in the same dtype? At most 2 times its error, 3 times in gradients."""

from __future__ import annotations

import pytest
from tolerances import BACKWARD, FORWARD

from bench.cases import PRESETS, Case
from bench.errors import KINDS, measure

ALLOWED = {"scores": FORWARD, "grad_regions": BACKWARD, "grad_words": BACKWARD}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_error_beside_eager(dtype, kind, preset, timed, backend, rows):
    side, width = (19, 768) if timed else (7, 96)
    measured = measure(Case("error", batch=6, side=side, width=width, preset=preset), dtype, kind, backend=backend)
    rows.setdefault("errors", []).extend(measured)
    too_large = [row for row in measured if row["ratio"] > ALLOWED[row["result"]]]
    assert not too_large, f"errors beyond {ALLOWED} times eager PyTorch's: {too_large}"
