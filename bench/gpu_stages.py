"""`python -m bench.gpu_stages --out FOLDER`: every kernel alone on the GPU at hand, in several block sizes.

A whole pass is run and its launches recorded; each is then launched again by itself, the variants of a kernel taking
turns. Beside what was measured stands what `bench.gpu_model` predicts. The fastest variant of each kernel becomes a row
of a table of block sizes, which GLORIA_OPS_BLOCKS can name, and which ships in place of block_sizes.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from triton.runtime.errors import OutOfResources, PTXASError

from bench import gpu_model
from bench.cases import Case, make_inputs
from bench.gpu_constants import milliseconds
from bench.gpu_launches import Launch, recorded
from bench.report import markdown
from gloria_ops import LocalScore
from gloria_ops.backends.triton import block_sizes, gradients, scores
from gloria_ops.backends.triton.block_sizes import Blocks, Choice, Elementwise
from gloria_ops.tokens import Ragged

# Two chunks of texts, and several of images in backward.
CASES = tuple(Case("batch of 256", batch=256, side=19, width=768, preset=preset) for preset in ("released", "paper"))
# Which kernels run with the blocks of a field.
KERNELS = {
    "product": ("affinity_kernel", "words_kernel"),
    "regions": ("regions_kernel",),
    "square": ("square_kernel",),
    "gram": ("gram_product_kernel", "gram_gradient_kernel", "gram_kernel", "finish_kernel"),
    "fused": ("fused_kernel",),
    "attention": ("attention_kernel",),
    "gradient": ("affinity_gradient_kernel",),
}
_WIDE = (
    Blocks(128, 256, 64, 8, 3), Blocks(128, 128, 64, 8, 3), Blocks(128, 128, 64, 4, 3), Blocks(256, 128, 64, 8, 3),
    Blocks(128, 128, 32, 8, 4), Blocks(128, 256, 64, 8, 4),
)  # fmt: skip
# Through tensor descriptors, where what ships takes them.
_DESCRIBED = (
    Blocks(192, 256, 64, 8, 3, True), Blocks(128, 256, 64, 8, 3, True), Blocks(128, 256, 64, 8, 4, True),
    Blocks(256, 128, 64, 8, 3, True),
)  # fmt: skip
_SQUARE = tuple(blocks for blocks in _WIDE if blocks.columns == 128)
VARIANTS: dict[str, tuple[Any, ...]] = {
    "product": _WIDE + _DESCRIBED,
    "regions": _WIDE + _DESCRIBED,
    "square": _SQUARE,
    "gram": _SQUARE,
    "fused": _WIDE + _DESCRIBED,
    "attention": (Elementwise(8, 128, 1), Elementwise(16, 128, 2), Elementwise(4, 128, 1), Elementwise(8, 64, 1)),
    "gradient": (Elementwise(8, 128, 1), Elementwise(16, 128, 2), Elementwise(4, 128, 1), Elementwise(8, 64, 1)),
}
ROUNDS = 5


class Timed(NamedTuple):
    """The kernels of one field in one variant: milliseconds in a whole pass, measured and modeled (None: no model)."""

    preset: str
    field: str
    blocks: Any
    kernel: str
    launches: int
    measured: float
    modeled: float | None


def passes(case: Case, choice: Choice, device: str = "cuda") -> Iterator[Callable[[], object]]:
    """Forward and backward of a case with these blocks."""
    inputs = make_inputs(case, device=device).to(torch.bfloat16)
    lengths = torch.tensor(case.lengths, device=device)
    starts = torch.arange(case.batch, device=device) * case.regions
    images = Ragged(inputs.regions.flatten(0, 1), starts, torch.full_like(starts, case.regions))
    texts = Ragged(inputs.packed_words, lengths.cumsum(0) - lengths, lengths)
    yield lambda: scores.forward(images, texts, case.score, choice)
    yield lambda: gradients.backward(inputs.grad_scores, images, texts, case.score, choice)


def variants(field: str, shipped: Choice, score: LocalScore) -> dict[Any, Choice]:
    """The choices that differ in one field, that which ships first."""
    kind = block_sizes.kind(score)
    described = shipped.product.described
    tried = (each for each in VARIANTS[field] if described or not getattr(each, "described", False))
    changed = dict.fromkeys((getattr(shipped, field), *tried))
    found = {blocks: shipped._replace(**{field: blocks}) for blocks in changed}
    return {blocks: choice for blocks, choice in found.items() if choice.misfit(kind) is None}


def launches_of(case: Case, choice: Choice, kernels: tuple[str, ...], device: str) -> list[Launch]:
    """The launches of these kernels in forward and backward; those of both directions are taken from backward."""
    found: dict[str, list[Launch]] = {}
    for step in passes(case, choice, device):
        try:
            made = recorded(step, runs=True)
        except (OutOfResources, PTXASError):
            return []
        for name in kernels:
            found[name] = [launch for launch in made if launch.name == name] or found.get(name, [])
    return [launch for own in found.values() for launch in own]


def measured(
    case: Case, field: str, shipped: Choice, gpu: gpu_model.GPU | None, device: str = "cuda",
    time: Callable[..., float] = milliseconds,
) -> list[Timed]:  # fmt: skip
    """Every variant of a field, kernel by kernel."""
    of_variant = {}
    for blocks, choice in variants(field, shipped, case.score).items():
        launches = launches_of(case, choice, KERNELS[field], device)
        if launches:
            of_variant[blocks] = {launch.name: launch for launch in reversed(launches)}, launches
    samples: dict[tuple[Any, str], list[float]] = {}
    for _ in range(ROUNDS):
        for blocks, (each_once, _) in of_variant.items():
            for name, launch in each_once.items():
                samples.setdefault((blocks, name), []).append(time(launch.again))
    rows = []
    for blocks, (_, launches) in of_variant.items():
        for name in dict.fromkeys(launch.name for launch in launches):
            own = [launch for launch in launches if launch.name == name]
            modeled = None
            if gpu is not None:
                modeled = next(gpu_model.stages(gpu, own, gpu_model.Batch.of(case))).milliseconds
            taken = median(samples[blocks, name]) * len(own)
            rows.append(Timed(case.preset, field, blocks, name, len(own), taken, modeled))
    return rows


def fastest(rows: list[Timed], shipped: Choice, preset: str) -> Choice:
    """For each field the blocks whose kernels take least together."""
    for field in KERNELS:
        totals: dict[Any, float] = {}
        for row in rows:
            if (row.preset, row.field) == (preset, field):
                totals[row.blocks] = totals.get(row.blocks, 0.0) + row.measured
        if totals:
            shipped = shipped._replace(**{field: min(totals, key=lambda blocks: totals[blocks])})
    return shipped


def report(rows: list[Timed]) -> str:
    """Measured beside modeled."""
    lines = [
        [
            row.preset, row.kernel, " x ".join(map(str, row.blocks)), str(row.launches), f"{row.measured:.2f}",
            "-" if row.modeled is None else f"{row.modeled:.2f}",
        ]
        for row in rows
    ]  # fmt: skip
    return "\n".join(markdown(["preset", "kernel", "blocks", "launches", "measured ms", "modeled ms"], lines))


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_stages", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of stages.json and block_sizes.json")
    parser.add_argument("--seconds", type=float, default=150.0, help="no kernel is begun after so many")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("there is no CUDA device")
    major, minor = torch.cuda.get_device_capability()
    capability = 10 * major + minor
    gpu = next((each for each in gpu_model.GPUS if each.capability == capability), None)
    run(given.out, given.seconds, capability, gpu)


def run(
    out: Path, seconds: float, capability: int, gpu: gpu_model.GPU | None, cases: tuple[Case, ...] = CASES,
    device: str = "cuda", timer: Callable[..., float] = milliseconds,
) -> None:  # fmt: skip
    """All of it, written after each kernel, so that whatever ends the run leaves what was measured."""
    began = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    rows: list[Timed] = []
    table = dict(block_sizes.read(block_sizes.SHIPPED))
    for case in cases:
        shipped = block_sizes.chosen(capability, torch.bfloat16, case.score)
        for field in KERNELS:
            if time.monotonic() - began > seconds:
                break
            rows += measured(case, field, shipped, gpu, device, timer)
            table[capability, 16, block_sizes.kind(case.score)] = fastest(rows, shipped, case.preset)
            listed = [row._asdict() | {"blocks": list(row.blocks)} for row in rows]
            (out / "stages.json").write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")
            block_sizes.write(out / "block_sizes.json", table)
    print(report(rows))
    print(f"wrote {out / 'stages.json'} and {out / 'block_sizes.json'}")


if __name__ == "__main__":
    main()
