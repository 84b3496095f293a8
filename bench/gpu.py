"""The GPU benchmark: `python -m bench.gpu --out FOLDER` times the Triton kernels and their peers, and writes JSON.

All contenders of a case take turns in one process, with the second-level cache overwritten before each call; times are
CUDA events, medians over the rounds. The bf16 matrix rate and the copy bandwidth are measured in the same run. A peer
that does not fit in the card's memory has a row that says so.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import triton
from torch import Tensor

from bench import peers
from bench.cases import PRESETS, Case, Inputs, make_inputs
from bench.chunked import ChunkedScores
from bench.gpu_constants import milliseconds, rates
from bench.peers import Contender
from bench.record import file_name
from bench.report import markdown, ratio_cell
from gloria_ops import local_scores
from gloria_ops.backends import cuda
from gloria_ops.functional import contrastive_losses

Row = dict[str, Any]
CASES = (
    Case("released batch", batch=48, side=19, width=768, preset="released"),
    Case("released batch", batch=48, side=19, width=768, preset="paper"),
    Case("batch of 128", batch=128, side=19, width=768, preset="released"),
    Case("batch of 256", batch=256, side=19, width=768, preset="released"),
    Case("batch of 1024", batch=1024, side=19, width=768, preset="released"),
    Case("batch of 1024", batch=1024, side=19, width=768, preset="paper"),
    Case("ViT-B/16", batch=1024, side=14, width=768, preset="released"),
    Case("D = 512", batch=1024, side=19, width=512, preset="released"),
    Case("W = 97", batch=256, side=19, width=768, preset="released", words_each=97),
    Case("batch of 4096", batch=4096, side=19, width=768, preset="released"),
)
# `bare` is the product alone; the others give scores and gradients, `autocast` the loss and its gradients.
FUSED, CUDA, CHUNKED, BARE = "fused", "cuda", "chunked", "bare"
PEERS = (CUDA, CHUNKED, "loop", "loop in float32", "eager", "compiled", "autocast")
MODES = ("forward", "full")
ROUNDS, ROUNDS_OF_LONG = 7, 3
LONG_MS = 1000.0
# Compiling takes half a minute each: for the released batch, and the largest that fits beside its gradients.
COMPILED = ("released batch", "batch of 128")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("bench/results"), help="folder of the JSON")
    parser.add_argument("--seconds", type=float, default=300.0, help="no case is begun after so many")
    parser.add_argument("--cases", nargs="+", default=[], help="names of cases, default: all")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("there is no CUDA device")
    began = time.monotonic()
    results: dict[str, Any] = {"machine": machine(), "commit": commit(), "rates": rates(), "rows": []}
    results["date"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / f"{file_name(results['machine']['gpu'])}.json"
    for case in CASES:
        if given.cases and case.name not in given.cases:
            continue
        if time.monotonic() - began > given.seconds:
            results["rows"].append({**case.label, "contender": FUSED, "left_out": "no time was left"})
        else:
            results["rows"] += rows_of(case, results["rates"])
        # After each case, so that whatever ends the run leaves what was measured.
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(report(results))
    print(f"wrote {path}")


def machine() -> dict[str, Any]:
    """What explains the numbers."""
    properties = torch.cuda.get_device_properties(0)
    return {
        "gpu": properties.name,
        "capability": f"sm_{properties.major}{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": triton.__version__,
    }


def commit() -> str:
    """The commit, or "unknown" outside a checkout; asked of git, for a GPU machine may have no pytest-benchmark."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
    )
    return done.stdout.strip() or "unknown"


def rows_of(case: Case, measured: dict[str, float]) -> list[Row]:
    """Every contender of a case, in both modes."""
    label = case.label
    inputs = make_inputs(case, device="cuda")
    samples: dict[str, dict[str, list[float]]] = {}
    peaks: dict[str, int] = {}
    left_out: dict[str, str] = {}
    steps: dict[str, dict[str, Callable[[], object]]] = {}
    for name, build in builders(case).items():
        try:
            steps[name] = dict(modes(name, build(case, inputs), inputs, case))
            peaks[name] = peak_bytes(steps[name])
        except torch.OutOfMemoryError:
            steps.pop(name, None)
            left_out[name] = "does not fit"
        torch.cuda.empty_cache()
    longest: dict[str, float] = {}
    for turn in range(ROUNDS):
        for name, of_mode in steps.items():
            if turn >= ROUNDS_OF_LONG and longest[name] > LONG_MS:
                continue
            for mode, step in of_mode.items():
                taken = milliseconds(step)
                samples.setdefault(name, {}).setdefault(mode, []).append(taken)
                longest[name] = max(longest.get(name, 0.0), taken)
    rows: list[Row] = [{**label, "contender": name, "left_out": why} for name, why in left_out.items()]
    for name, of_mode in samples.items():
        for mode, taken in of_mode.items():
            flops = case.product_flops() if name == BARE else case.flops(mode)
            tflops = flops / median(taken) / 1e9
            rows.append({
                **label, "contender": name, "mode": mode, "ms": median(taken), "rounds_ms": taken, "tflops": tflops,
                "percent_of_rate": 100 * tflops / measured["bf16_tflops"], "peak_extra_bytes": peaks[name],
            })  # fmt: skip
    return rows


def builders(case: Case) -> dict[str, Callable[[Case, Inputs], Contender]]:
    """What is timed on a case; words are packed for those that take them so."""
    half = {FUSED: fused, CHUNKED: chunked, BARE: bare, "loop": peers.loop, "eager": peers.eager}
    if cuda.unavailable() is None:
        half[CUDA] = cuda_kernels
    if case.name in COMPILED:
        half["compiled"] = peers.compiled
    found: dict[str, Callable[[Case, Inputs], Contender]] = {
        name: partial(_in_dtype, build, torch.bfloat16) for name, build in half.items()
    }
    found["loop in float32"] = partial(_in_dtype, peers.loop, torch.float32)
    found["autocast"] = partial(_in_dtype, peers.loop, torch.float32)
    if case.batch > 256:  # N² of them: what would be hours, or terabytes
        found = {name: build for name, build in found.items() if name in (FUSED, CUDA, CHUNKED, BARE)}
    return found


def _in_dtype(build: Callable[[Case, Inputs], Contender], dtype: torch.dtype, case: Case, inputs: Inputs) -> Contender:
    return build(case, inputs.to(dtype))


def fused(case: Case, inputs: Inputs) -> Contender:
    """gloria_ops by its Triton kernels, as a training step calls it: offsets on the device."""
    return _by_backend(FUSED, "triton", case, inputs)


def cuda_kernels(case: Case, inputs: Inputs) -> Contender:
    """gloria_ops by its CUDA C++ kernels."""
    return _by_backend(CUDA, cuda.name, case, inputs)


def _by_backend(name: str, backend: str, case: Case, inputs: Inputs) -> Contender:
    offsets = torch.tensor([0, *inputs.lengths]).cumsum(0).cuda()

    def scores(regions: Tensor, words: Tensor) -> Tensor:
        return local_scores(regions, words, word_offsets=offsets, score=case.score, backend=backend)

    return peers.contender(name, inputs.regions, inputs.packed_words, scores)


def chunked(case: Case, inputs: Inputs) -> Contender:
    """See `bench.chunked`."""
    lengths = torch.tensor(inputs.lengths).cuda()

    def scores(regions: Tensor, words: Tensor) -> Tensor:
        return ChunkedScores.apply(regions, words, lengths, case.score)

    return peers.contender(CHUNKED, inputs.regions, inputs.packed_words, scores)


def bare(case: Case, inputs: Inputs) -> Contender:
    """S = V Tᵀ by cuBLAS into memory that is there, some images at a time where all would be too much; no scores."""
    words = inputs.packed_words.detach()
    at_once = max(1, min(case.batch, (1 << 33) // (2 * case.regions * len(words))))
    out = words.new_empty(at_once * case.regions, len(words))

    def scores(regions: Tensor, words: Tensor) -> Tensor:
        rows = regions.flatten(0, 1)
        for first in range(0, len(rows), len(out)):
            part = rows[first : first + len(out)]
            torch.matmul(part, words.T, out=out[: len(part)])
        return out

    return Contender(BARE, inputs.regions.detach(), words, scores)


def modes(name: str, contender: Contender, inputs: Inputs, case: Case) -> Iterator[tuple[str, Callable[[], object]]]:
    """The calls that are timed."""
    leaves = contender.leaves
    if name == "autocast":

        def loss() -> object:
            with torch.autocast("cuda", torch.bfloat16):
                scores = contender.scores(*leaves)
            losses = contrastive_losses(scores.float(), logit_scale=PRESETS[case.preset].logit_scale)
            return torch.autograd.grad(torch.stack(losses).sum(), leaves)

        yield "full", loss
        return

    @torch.no_grad()
    def forward() -> object:
        return contender.scores(*leaves)

    def full() -> object:
        scores = contender.scores(*leaves)
        return torch.autograd.grad(scores, leaves, inputs.grad_scores.to(scores.dtype))

    yield "forward", forward
    if name != BARE:
        yield "full", full


def peak_bytes(steps: dict[str, Callable[[], object]]) -> int:
    """Peak extra bytes of the last mode, its results not counted; the warm-up of all of them."""
    peak = 0
    for step in steps.values():
        step()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        results = step()
        torch.cuda.synchronize()
        tensors = results if isinstance(results, tuple) else (results,)
        peak = torch.cuda.max_memory_allocated() - before - sum(each.nbytes for each in tensors)  # type: ignore[misc]
        del results, tensors
    return peak


def report(results: dict[str, Any]) -> str:
    """The table; a ratio below 1, in bold, is a row where the peer wins."""
    described, measured = results["machine"], results["rates"]
    rows = results["rows"]
    timed = {(row["case"], row["preset"], row["contender"], row["mode"]): row for row in rows if "ms" in row}
    left_out = {(row["case"], row["preset"], row["contender"]): row["left_out"] for row in rows if "left_out" in row}
    header = [
        "case",
        "preset",
        "mode",
        "ms",
        "TFLOP/s",
        "% of bf16 rate",
        "x bare",
        "peak extra MiB",
    ]
    header += [f"x {peer}" for peer in PEERS]
    lines = []
    for row in rows:
        if row["contender"] != FUSED:
            continue
        case = (row["case"], row["preset"])
        problem = f"{row['case']}: {row['batch']} x {row['regions']} x {row['width']}, {row['words']} words"
        if "left_out" in row:
            lines.append([problem, row["preset"], row["left_out"], *["-"] * (len(header) - 3)])
            continue
        bare_ms = timed.get((*case, BARE, "forward"), {}).get("ms")
        cells = [problem, row["preset"], row["mode"], f"{row['ms']:.2f}", f"{row['tflops']:.0f}"]
        cells += [f"{row['percent_of_rate']:.0f}", f"{row['ms'] / bare_ms:.2f}" if bare_ms else "-"]
        cells.append(f"{row['peak_extra_bytes'] / 2**20:.0f}")
        for peer in PEERS:
            other = timed.get((*case, peer, row["mode"]))
            cells.append(ratio_cell(other["ms"] / row["ms"]) if other else left_out.get((*case, peer), "-"))
        lines.append(cells)
    title = (
        f"{described['gpu']} ({described['capability']}), torch {described['torch']}, Triton {described['triton']}; "
        f"commit {results['commit']}; {measured['bf16_tflops']:.0f} TFLOP/s in bf16, copies at "
        f"{measured['copy_tbps']:.2f} TB/s"
    )
    return "\n".join([title, "", *markdown(header, lines)])


if __name__ == "__main__":
    main()
