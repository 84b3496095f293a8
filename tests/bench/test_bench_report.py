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
MACHINE = record.describe_machine(MACHINE_INFO)
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


def test_a_search_of_a_corpus_is_a_line():
    shape = {"texts": 100000, "words": 4_600_000, "width": 128, "bytes": 1100 * 2**20, "regions": 361}
    found = {"search": "re-rank", "queries": 8, "scored": 1000, "ms": 12.34, "pairs_per_second": 648298.2}
    line = [cell.strip() for cell in report.corpus([shape | found])[2].strip("|").split("|")]
    assert line == ["100000", "4600000", "128", "1100", "361", "re-rank", "8 x 1000", "12.3", "648298"]


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


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_roofline_and_the_stages_of_a_row():
    times = {"ms": 80.0, "bare_ms": 20.0, "per_bare": 4.1, "limit": "float32 T Vᵀ", "limit_ms": 10.0, "floor_ms": 50.0}
    times |= {"exponentials": 2_500_000, "exponential_ns": 0.256, "exponential_ms": 6.0, "left_ms": 24.0}
    times |= {"stages_ms": {"waiting": 15.0, "affinity": 45.0}, "outside_ms": 20.0}
    results = {"roofline": [row("fused", mode="full", dtype="bfloat16", **times)]}
    text = report.render({"machine": MACHINE, "commit": COMMIT_INFO, "date": "today", **results})
    roofline, stages = text.split("### Roofline\n\n")[1].split("\n\n### Stages\n\n")
    _, _, line = roofline.split("\n")
    assert cells(line)[:4] == ["tiny: 2 x 4 x 8", "released", "bfloat16", "full"]
    assert cells(line)[4:9] == ["80.0", "20.0", "4.10", "float32 T Vᵀ", "10.0"]
    assert cells(line)[9:] == ["50.0", "2.5", "0.26", "6.0", "24.0", "30"]
    header, _, line = stages.split("\n")
    assert cells(header)[4:] == ["waiting, %", "affinity, %", "outside, ms"]
    assert cells(line)[4:] == ["25.0", "75.0", "20.0"]


def test_a_rate_that_does_not_hold_is_bold():
    rows = [row("fused", ms=ms, gflops=300.0, per_first=per_first) for ms, per_first in ((1500.0, 1.0), (99e3, 0.98))]
    first, second = (cells(line) for line in report.scaling(rows)[2:])
    assert first == ["tiny: 2 x 4 x 8", "9", "float32", "1.50", "300", "1.00"]
    assert second[3:] == ["99.00", "300", "**0.98**"]


def test_a_small_problem_that_eager_wins_is_bold():
    times = {"microseconds": 200.4, "eager_microseconds": 150.2, "per_fused": 0.75}
    assert cells(report.small([row("fused", **times)])[2])[1:] == ["9", "float32", "full", "200", "150", "**0.75**"]
