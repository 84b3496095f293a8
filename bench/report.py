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
    machine, commit = results["machine"], results["commit"]
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores ({machine['isa']}); torch {machine['torch']}, "
        f"{machine['threads']} threads; commit {commit['id'][:12]}{' + changes' * commit['dirty']}; {results['date']}"
    ]
    tables = {"speed": speed, "retrieval": retrieval, "memory": memory, "errors": errors, "overhead": overhead}
    for heading, table in tables.items():
        if results.get(heading):
            lines += ["", f"### {heading.capitalize()}", "", *table(results[heading])]
    return "\n".join(lines)


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
        cells = [_problem(row), row["preset"], row["dtype"], row["mode"]]
        cells += [f"{row['ms']:.1f}", f"{row['gflops']:.0f}", f"{row['percent_of_bare']:.0f}"]
        for peer in PEERS:
            other = timed.get((*_group(row), row["mode"], peer))
            cells.append(_ratio(other["per_fused"][row["dtype"]]) if other else left_out.get((*_group(row), peer), "-"))
        plain = timed.get((*_group(row | {"dtype": "float32"}), row["mode"], "loop"))
        cells.append(_ratio(plain["per_fused"][row["dtype"]]) if plain else "-")
        lines.append(cells)
    bare = [
        [_problem(row), row["dtype"], row["contender"], f"{row['ms']:.1f}", f"{row['gflops']:.0f}"]
        for row in rows
        if row["contender"].startswith("bare") and row["preset"] == "released"
    ]
    return [*_markdown(header, lines), "", *_markdown(["case", "dtype", "the limit", "ms", "GFLOP/s"], bare)]


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
    return _markdown([*header, "% of N x N"], lines)


def memory(rows: list[Row]) -> list[str]:
    """Peak extra memory of forward+backward, in MiB."""
    header = ["batch", "preset", "dtype", "contender", "peak extra MiB", "inputs' gradients and scores, MiB"]
    lines = []
    for row in rows:
        problem = [str(row["batch"]), row["preset"], row["dtype"], row["contender"]]
        sizes = [row["left_out"], "-"] if "left_out" in row else [_mebibytes(row[key]) for key in BYTES]
        lines.append([*problem, *sizes])
    return _markdown(header, lines)


def errors(rows: list[Row]) -> list[str]:
    """Root-mean-square errors against float64 and their ratio, and the ratio of the largest errors."""
    header = ["inputs", "preset", "dtype", "result", "eager error", "fused error", "fused / eager", "largest / largest"]
    lines = []
    for row in rows:
        sizes = [f"{row['eager_error']:.1e}", f"{row['fused_error']:.1e}"]
        sizes += [f"{row['ratio']:.2f}", f"{row['ratio_of_largest']:.2f}"]
        lines.append([row["inputs"], row["preset"], row["dtype"], row["result"], *sizes])
    return _markdown(header, lines)


def overhead(rows: list[Row]) -> list[str]:
    """What a call costs before there is any work."""
    return _markdown(["call", "microseconds"], [[row["call"], f"{row['microseconds']:.0f}"] for row in rows])


def _group(row: Row) -> tuple[Any, ...]:
    return row["case"], row["preset"], row["dtype"]


def _key(row: Row) -> tuple[Any, ...]:
    return *_group(row), row["mode"], row["contender"]


def _problem(row: Row) -> str:
    return f"{row['case']}: {row['batch']} x {row['regions']} x {row['width']}"


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value >= 1 else f"**{value:.2f}**"


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:.0f}"


def _markdown(header: list[str], lines: list[list[str]]) -> list[str]:
    widths = [max(len(line[column]) for line in [header, *lines]) for column in range(len(header))]
    rows = [header, ["-" * width for width in widths], *lines]
    padded = ([cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows)
    return [f"| {' | '.join(cells)} |" for cells in padded]


if __name__ == "__main__":
    print(render(json.loads(Path(sys.argv[1]).read_text())))
