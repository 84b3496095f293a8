"""The results file names its machine without its host, and the tables show losing rows and what did not fit."""

import json

from bench import record, report

MACHINE_INFO = {
    "node": "secret-host",
    "machine": "x86_64",
    "system": "Linux",
    "python_version": "3.11.2",
    "cpu": {"brand_raw": "Some CPU(R) 9000", "flags": ["fma", "avx2", "avx512f", "avx512_bf16", "sse"], "count": 2},
}
COMMIT_INFO = {"id": "0123456789abcdef", "dirty": True, "time": None}


def row(contender, mode="full", dtype="float32", **figures):
    shape = {"case": "tiny", "preset": "released", "batch": 2, "regions": 4, "words": 9, "width": 8, "dtype": dtype}
    return shape | {"contender": contender, "mode": mode} | figures


def figures(ms, per_fused):
    return {"ms": ms, "gflops": 10.0, "percent_of_bare": 55.0, "per_fused": per_fused}


def test_results_are_written_under_the_name_of_the_machine(tmp_path):
    rows = {"overhead": [{"call": "forward", "microseconds": 61.2}]}
    results, path = record.write(MACHINE_INFO, COMMIT_INFO, rows, folder=tmp_path)
    assert path.name == "some-cpu-r-9000-avx512-bf16-2-cores.json"
    assert json.loads(path.read_text()) == results
    assert "secret-host" not in path.read_text()
    assert results["machine"]["isa_flags"] == ["fma", "avx2", "avx512f", "avx512_bf16"]
    text = report.render(results)
    assert "commit 0123456789ab + changes" in text
    assert "| forward | 61           |" in text


def test_every_mode_of_the_fused_score_is_a_line_with_its_ratios():
    rows = [
        row("fused", **figures(10.0, {"float32": 1.0, "bfloat16": 2.0})),
        row("fused", dtype="bfloat16", **figures(5.0, {"float32": 0.5, "bfloat16": 1.0})),
        row("loop", **figures(40.0, {"float32": 4.0, "bfloat16": 8.0})),
        row("compiled", **figures(7.0, {"float32": 0.7, "bfloat16": 1.4})),
        row("eager", left_out="does not fit: about 99 GiB"),
        row("bare T Vᵀ", mode="forward", **figures(3.0, {})),
    ]
    table, limit = "\n".join(report.speed(rows)).split("\n\n")
    _, _, in_float32, in_bfloat16 = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.split("\n")
    )
    assert in_float32[4:] == ["10.0", "10", "55", "4.00", "does not fit: about 99 GiB", "**0.70**", "4.00"]
    assert in_bfloat16[4:] == ["5.0", "10", "55", "-", "-", "-", "8.00"]
    assert "bare T Vᵀ" in limit


def test_a_search_slower_than_the_batch_is_bold():
    shape = {"words": 55, "regions": 361, "width": 768, "dtype": "float32", "preset": "released"}
    search = {"contender": "fused", "queries": 10, "corpus": 384, "ms": 2.0, "scores_per_second": 1.92e6}
    rows = [shape | search | {"gflops": 99.6, "percent_of_batch": percent} for percent in (104.4, 96.5)]
    faster, slower = ([cell.strip() for cell in line.strip("|").split("|")] for line in report.retrieval(rows)[2:])
    assert faster == ["fused", "10 x 384", "55", "361", "768", "float32", "2.0", "1920000", "100", "104"]
    assert slower[-1] == "**96**"


def test_memory_in_mebibytes_and_what_did_not_fit():
    measured = {"batch": 32, "preset": "released", "dtype": "float32", "contender": "loop"}
    lines = report.memory(
        [
            measured | {"extra_bytes": 5 * 2**20, "result_bytes": 2**20},
            measured | {"batch": 128, "left_out": "not run: about 23 GiB, from N = 32"},
        ]
    )
    assert [cell.strip() for cell in lines[2].strip("|").split("|")] == ["32", "released", "float32", "loop", "5", "1"]
    assert "not run: about 23 GiB, from N = 32" in lines[3]
