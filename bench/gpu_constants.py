"""`python -m bench.gpu_constants --out FOLDER`: the rates of the GPU at hand that the model of the kernels assumes."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

# Beyond the cache of any card of today.
FLUSHED_BYTES = 256 << 20


def milliseconds(step: Callable[[], object], flush: bool = True) -> float:
    """One call, by CUDA events; unless told otherwise after the second-level cache was overwritten."""
    if flush:
        torch.empty(FLUSHED_BYTES, dtype=torch.int8, device="cuda").zero_()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    step()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def rates(device: str = "cuda", time: Callable[..., float] = milliseconds, scale: int = 1) -> dict[str, float]:
    """Rates of products in bf16 (TFLOP/s), of copies and of the second-level cache (TB/s, read and written).

    `scale` divides the sizes, for tests on a CPU.
    """

    def product(rows: int, inner: int, columns: int) -> float:
        a = torch.randn(rows // scale, inner, device=device).bfloat16()
        b = torch.randn(inner, columns // scale, device=device).bfloat16()
        out = a.new_empty(a.shape[0], b.shape[1])
        return 2 * out.numel() * inner / median(time(lambda: torch.matmul(a, b, out=out)) for _ in range(10)) / 1e9

    def copies(count: int, flush: bool) -> float:
        source = torch.randn(count // scale, device=device)
        target = torch.empty_like(source)
        return 2 * source.nbytes / median(time(lambda: target.copy_(source), flush=flush) for _ in range(10)) / 1e9

    return {
        "bf16_tflops": product(8192, 8192, 8192),
        "bf16_tflops_at_768": product(11_008, 768, 11_008),
        "copy_tbps": copies(1 << 28, flush=True),
        # Source and target together stay in the cache of an A100 or an H100.
        "cache_tbps": copies(1 << 21, flush=False),
    }


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_constants", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the JSON")
    out = parser.parse_args().out
    found = rates()
    out.mkdir(parents=True, exist_ok=True)
    (out / "constants.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(", ".join(f"{name} {value:.1f}" for name, value in found.items()))


if __name__ == "__main__":
    main()
