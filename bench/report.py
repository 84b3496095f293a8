"""Prints the results of a benchmark run as markdown tables: `python -m bench.report bench/results/<machine>.json`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

Row = dict[str, Any]
PEERS = ("loop", "eager", "compiled")
BYTES = ("extra_bytes", "result_bytes")


def render(results: dict[str, Any]) -> str:
    """All tables of one run, each under its heading; a table that the run did not fill is left out."""
    lines = [f"{describe(results)}; {results['date']}"]
    tables = {
        "Speed": ("speed", speed),
        "Scaling": ("scaling", scaling),
        "Roofline": ("roofline", roofline),
        "Stages": ("roofline", stages),
        "Retrieval": ("retrieval", retrieval),
        "Corpus": ("corpus", corpus),
        "MaxSim": ("maxsim", maxsim),
        "Memory": ("memory", memory),
        "Errors": ("errors", errors),
        "Overhead": ("overhead", overhead),
        "Small": ("small", small),
        "A training step": ("step", step),
        "The largest batch": ("largest", largest),
    }
    for heading, (name, table) in tables.items():
        if results.get(name):
            lines += ["", f"### {heading}", "", *table(results[name])]
    return "\n".join(lines)


def describe(results: dict[str, Any]) -> str:
    """The machine and the commit of a run, in a line."""
    machine, commit = results["machine"], results["commit"]
    return (
        f"{machine['cpu']}, {machine['cores']} cores ({machine['isa']}); torch {machine['torch']}, "
        f"{machine['threads']} threads; commit {commit['id'][:12]}{' + changes' * commit['dirty']}"
    )


def describe_problem(row: Row) -> str:
    """The case, and its N x M x D."""
    return f"{row['case']}: {row['batch']} x {row['regions']} x {row['width']}"


def speed(rows: list[Row]) -> list[str]:
    """One line for each case, dtype and mode of the fused score; a bold ratio below 1 is a row where a peer wins."""
    header = ["case", "preset", "dtype", "mode", "ms", "GFLOP/s", "% of bare product"]
    header += [*(f"x {peer}" for peer in PEERS), "x loop in float32"]
    timed = {_key(row): row for row in rows if "ms" in row}
    left_out = {(*_group(row), row["contender"]): row["left_out"] for row in rows if "left_out" in row}
    lines = []
    for row in rows:
        if "ms" not in row or row["contender"] != "fused":
            continue
        cells = [describe_problem(row), row["preset"], row["dtype"], row["mode"]]
        cells += [f"{row['ms']:.1f}", f"{row['gflops']:.0f}", f"{row['percent_of_bare']:.0f}"]
        for peer in PEERS:
            other = timed.get((*_group(row), row["mode"], peer))
            cells.append(
                ratio_cell(other["per_fused"][row["dtype"]]) if other else left_out.get((*_group(row), peer), "-")
            )
        plain = timed.get((*_group(row | {"dtype": "float32"}), row["mode"], "loop"))
        cells.append(ratio_cell(plain["per_fused"][row["dtype"]]) if plain else "-")
        lines.append(cells)
    bare = [
        [describe_problem(row), row["dtype"], row["contender"], f"{row['ms']:.1f}", f"{row['gflops']:.0f}"]
        for row in rows
        if row["contender"].startswith("bare") and row["preset"] == "released"
    ]
    return [*markdown(header, lines), "", *markdown(["case", "dtype", "the limit", "ms", "GFLOP/s"], bare)]


def scaling(rows: list[Row]) -> list[str]:
    """The loss and its gradients in a batch, and in a much larger one; a rate below that of the first is bold."""
    header = ["case", "words", "dtype", "s", "GFLOP/s", "x the rate of the first"]
    lines = []
    for row in rows:
        cells = [describe_problem(row), str(row["words"]), row["dtype"]]
        cells += [f"{row['ms'] / 1e3:.2f}", f"{row['gflops']:.0f}"]
        lines.append([*cells, ratio_cell(row["per_first"])])
    return markdown(header, lines)


def roofline(rows: list[Row]) -> list[str]:
    """The fused score's time beside the bare product's, and what of it the products and the exponentials explain."""
    header = ["case", "preset", "dtype", "mode", "ms", "bare, ms", "x bare", "the limit", "the limit, ms", "floor, ms"]
    header += ["exp, 10⁶", "ns each", "exp, ms", "left, ms", "left, %"]
    lines = []
    for row in rows:
        cells = [f"{row['ms']:.1f}", f"{row['bare_ms']:.1f}", f"{row['per_bare']:.2f}", row["limit"]]
        cells += [f"{row['limit_ms']:.1f}", f"{row['floor_ms']:.1f}", f"{row['exponentials'] / 1e6:.1f}"]
        cells += [f"{row['exponential_ns']:.2f}", f"{row['exponential_ms']:.1f}", f"{row['left_ms']:.1f}"]
        cells.append(f"{100 * row['left_ms'] / row['ms']:.0f}")
        lines.append([describe_problem(row), row["preset"], row["dtype"], row["mode"], *cells])
    return markdown(header, lines)


def stages(rows: list[Row]) -> list[str]:
    """Each stage's share of the threads' time, in percent, and what a call takes beside the kernels."""
    header = ["case", "preset", "dtype", "mode", *(f"{name}, %" for name in rows[0]["stages_ms"]), "outside, ms"]
    lines = []
    for row in rows:
        of_stages = row["stages_ms"].values()
        shares = [f"{100 * ms / sum(of_stages):.1f}" for ms in of_stages]
        cells = [describe_problem(row), row["preset"], row["dtype"], row["mode"]]
        lines.append([*cells, *shares, f"{row['outside_ms']:.1f}"])
    return markdown(header, lines)


def retrieval(rows: list[Row]) -> list[str]:
    """One line for each search, behind the N x N batch that it is held to; below 100 % in bold it is slower."""
    header = ["contender", "queries x items", "words", "regions", "D", "dtype", "ms", "scores/s", "GFLOP/s"]
    lines = []
    for row in rows:
        cells = [row["contender"], f"{row['queries']} x {row['corpus']}"]
        cells += [str(row["words"]), str(row["regions"]), str(row["width"]), row["dtype"], f"{row['ms']:.1f}"]
        cells += [f"{row['scores_per_second']:.0f}", f"{row['gflops']:.0f}"]
        share = f"{row['percent_of_batch']:.0f}"
        lines.append([*cells, share if row["percent_of_batch"] >= 100 else f"**{share}**"])
    return markdown([*header, "% of N x N"], lines)


def maxsim(rows: list[Row]) -> list[str]:
    """One line for each contender of each case, ours first; a bold ratio below 1 is a row where a peer wins."""
    lines = []
    for row in rows:
        figures = [f"{row['ms']:.1f}", ratio_cell(row["per_fused"])] if "ms" in row else [row["left_out"], "-"]
        lines.append([row["case"], row["contender"], *figures])
    return markdown(["case", "contender", "ms", "x fused"], lines)


def corpus(rows: list[Row]) -> list[str]:
    """Searches of an index on disk: of all texts, and of those that FAISS finds; and how fast those are re-ranked."""
    header = ["texts", "words", "D", "MiB", "regions", "search", "queries x texts", "ms", "pairs/s"]
    lines = []
    for row in rows:
        cells = [str(row["texts"]), str(row["words"]), str(row["width"]), _mebibytes(row["bytes"])]
        cells += [str(row["regions"]), row["search"], f"{row['queries']} x {row['scored']}"]
        lines.append([*cells, f"{row['ms']:.1f}", f"{row['pairs_per_second']:.0f}"])
    return markdown(header, lines)


def memory(rows: list[Row]) -> list[str]:
    """Peak extra memory of forward+backward, in MiB."""
    header = ["batch", "preset", "dtype", "contender", "peak extra MiB", "inputs' gradients and scores, MiB"]
    lines = []
    for row in rows:
        problem = [str(row["batch"]), row["preset"], row["dtype"], row["contender"]]
        sizes = [row["left_out"], "-"] if "left_out" in row else [_mebibytes(row[key]) for key in BYTES]
        lines.append([*problem, *sizes])
    return markdown(header, lines)


def errors(rows: list[Row]) -> list[str]:
    """Root-mean-square errors against float64 and their ratio, and the ratio of the largest errors."""
    header = ["inputs", "preset", "dtype", "result", "eager error", "fused error", "fused / eager", "largest / largest"]
    lines = []
    for row in rows:
        sizes = [f"{row['eager_error']:.1e}", f"{row['fused_error']:.1e}"]
        sizes += [f"{row['ratio']:.2f}", f"{row['ratio_of_largest']:.2f}"]
        lines.append([row["inputs"], row["preset"], row["dtype"], row["result"], *sizes])
    return markdown(header, lines)


def overhead(rows: list[Row]) -> list[str]:
    """What a call costs before there is any work."""
    return markdown(["call", "microseconds"], [[row["call"], f"{row['microseconds']:.0f}"] for row in rows])


def small(rows: list[Row]) -> list[str]:
    """A problem of a few words beside vectorized eager; a bold ratio below 1 is a row where eager wins."""
    header = ["case", "words", "dtype", "mode", "fused, µs", "eager, µs", "x eager"]
    lines = []
    for row in rows:
        cells = [describe_problem(row), str(row["words"]), row["dtype"], row["mode"]]
        cells += [f"{row['microseconds']:.0f}", f"{row['eager_microseconds']:.0f}", ratio_cell(row["per_fused"])]
        lines.append(cells)
    return markdown(header, lines)


def step(rows: list[Row]) -> list[str]:
    """A training step of the whole model: the share of each part, and what the loss is worth in it."""
    parts = list(next(row["parts_ms"] for row in rows if "ms" in row))
    header = ["model", "batch", "words", "contender", "step, ms", *(f"{part}, %" for part in parts)]
    lines = []
    for row in rows:
        cells = [row["model"], str(row["batch"]), str(row["words"]), row["contender"]]
        if "left_out" in row:
            lines.append([*cells, row["left_out"], *("-" for _ in parts), "-", "-"])
            continue
        shares = [f"{100 * row['parts_ms'][part] / row['ms']:.1f}" for part in parts]
        ratio = ratio_cell(row["per_loop"]) if "per_loop" in row else "-"
        lines.append([*cells, f"{row['ms']:.0f}", *shares, ratio, f"{row['peak_bytes'] / 2**30:.2f}"])
    return markdown([*header, "x loop", "peak GiB"], lines)


def largest(rows: list[Row]) -> list[str]:
    """The largest batch that fits into the machine's memory, and whether it was run or follows from smaller ones."""
    lines = []
    for row in rows:
        how = f"extrapolated from N = {row['largest_run']}" if row["largest"] > row["largest_run"] else "run"
        lines.append([row["model"], row["contender"], f"{row['memory_bytes'] / 2**30:.1f}", str(row["largest"]), how])
    return markdown(["model", "contender", "memory, GiB", "largest batch", "how"], lines)


def _group(row: Row) -> tuple[Any, ...]:
    return row["case"], row["preset"], row["dtype"]


def _key(row: Row) -> tuple[Any, ...]:
    return *_group(row), row["mode"], row["contender"]


def ratio_cell(value: float) -> str:
    """Bold below 1: the peer wins."""
    return f"{value:.2f}" if value >= 1 else f"**{value:.2f}**"


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:.0f}"


def markdown(header: list[str], lines: list[list[str]]) -> list[str]:
    """The lines of a table, columns aligned."""
    widths = [max(len(line[column]) for line in [header, *lines]) for column in range(len(header))]
    rows = [header, ["-" * width for width in widths], *lines]
    padded = ([cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows)
    return [f"| {' | '.join(cells)} |" for cells in padded]


if __name__ == "__main__":
    print(render(json.loads(Path(sys.argv[1]).read_text())))
