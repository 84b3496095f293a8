"""What is the fused loss worth in a whole training step, and how large a batch fits with it?"""

from __future__ import annotations

from types import SimpleNamespace

import psutil
import pytest
import torch

from bench.step import CONTENDERS, MODELS, PARTS, Step, largest, measure


@pytest.mark.timeout(7200)  # minutes on quiet cores; more on busy ones
@pytest.mark.parametrize(("model", "rounds"), [("small", 3), ("full", 2)])
def test_full_size(model, rounds, timed, backend, rows):
    if not timed:
        pytest.skip("full sizes run with --benchmark")
    measured = measure(MODELS[model], backend=backend, rounds=rounds)
    rows.setdefault("step", []).extend(measured)
    rows.setdefault("largest", []).extend(largest(measured, psutil.virtual_memory().total))


def test_every_contender_has_a_row_whose_parts_are_the_step(timed, backend):
    if timed:
        pytest.skip("small sizes run without --benchmark")
    measured = measure(MODELS["quick"], backend=backend, rounds=1)
    assert [(row["batch"], row["contender"]) for row in measured] == [(5, contender) for contender in CONTENDERS]
    for row in measured:
        assert list(row["parts_ms"]) == list(PARTS)
        assert min(row["parts_ms"].values()) > 0
        assert sum(row["parts_ms"].values()) == pytest.approx(row["ms"])
        assert row["peak_bytes"] > 0
        assert row["per_loop"] > 0


def test_contenders_compute_the_same_gradients(timed, backend):
    """Without dropout, and with batch statistics at rest, for those are of a micro-batch in one of the three."""
    if timed:
        pytest.skip("checked without --benchmark")
    gradients = {contender: _gradients(contender, backend) for contender in CONTENDERS}
    largest = max(float(grad.abs().max()) for grad in gradients["loop"].values())
    for contender in ("fused", "cached"):
        assert gradients[contender].keys() == gradients["loop"].keys()
        for name, grad in gradients["loop"].items():
            torch.testing.assert_close(gradients[contender][name], grad, rtol=1e-3, atol=1e-5 * largest, msg=name)


def _gradients(contender: str, backend: str) -> dict[str, torch.Tensor]:
    step = Step(MODELS["quick"], 5, backend)
    step.model.eval()
    step.optimizer = SimpleNamespace(step=lambda: None, zero_grad=lambda: None)
    step(contender)
    return {name: each.grad for name, each in step.model.named_parameters() if each.grad is not None}
