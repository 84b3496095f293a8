"""Floor, exponentials and stages are counted as the benchmark's README says, and the picture shows all of them."""

import time
from dataclasses import replace

import pytest
import torch

from bench import chart
from bench.cases import CASES, Case
from bench.roofline import exponentials, make_row, needed_flops, sample_exponential
from gloria_ops.backends import cpu

CASE = Case("by hand", batch=2, side=3, width=5, preset="released", words_each=4)
PAIRS = 2 * 9 * 2 * 4
MACHINE = {"cpu": "Some CPU", "cores": 2, "isa": "avx2", "torch": "2.0", "threads": 2}
COMMIT = {"id": "0123456789abcdef", "dirty": False}


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def make_samples(**bfloat16):
    """Seconds of three rounds: the same for both dtypes but for what is named."""
    stages = dict.fromkeys(cpu._C.STAGES, 0.5)
    times = {
        "forward": {"total": [8.0, 9.0, 7.0], **{name: [seconds] * 3 for name, seconds in stages.items()}},
        "T Vᵀ": {"forward": [2.0, 3.0, 1.0]},
        "V Tᵀ": {"forward": [4.0, 4.0, 4.0]},
        "exponential": {"forward": [1e-3] * 3},
    }
    samples = {(name, dtype): each for name, each in times.items() for dtype in ("float32", "bfloat16")}
    return samples | {(name, "bfloat16"): {"forward": [seconds] * 3} for name, seconds in bfloat16.items()}


def test_needed_flops_are_counted_by_hand():
    gram = 2 * 9 * 9 * 5  # half of 2 M² D, for two images
    assert needed_flops(CASE, "forward") == PAIRS * (10 + 9) + gram
    assert needed_flops(CASE, "full") == PAIRS * (10 + 9) + PAIRS * (30 + 18 + 9) + gram + gram + 2 * gram
    paper = replace(CASE, preset="paper")
    assert needed_flops(paper, "forward") == PAIRS * 10
    assert needed_flops(paper, "full") == PAIRS * 40


def test_every_case_goes_through_the_gram_matrix_as_the_floor_assumes():
    assert all(5 * case.regions <= 9 * case.width for case in CASES if case.score.similarity == "cosine")


def test_a_softmax_over_the_words_takes_a_second_exponential_and_backward_takes_them_again():
    paper = replace(CASE, preset="paper")
    counts = [exponentials(case, mode) / PAIRS for case in (CASE, paper) for mode in ("forward", "full")]
    assert counts == [2, 4, 1, 2]


def test_a_row_is_made_of_medians_and_of_ratios_within_a_round(two_threads):
    row = make_row(CASE, "float32", "forward", make_samples())
    floor = 2000 * needed_flops(CASE, "forward") / CASE.product_flops()
    assert (row["ms"], row["bare_ms"], row["limit"], row["limit_ms"]) == (8000, 2000, "float32 T Vᵀ", 2000)
    assert row["per_bare"] == 4  # of 4, 3 and 7
    assert row["floor_ms"] == pytest.approx(floor)
    assert row["exponential_ms"] == pytest.approx(2 * PAIRS / 2)  # two of a millisecond an affinity, on two threads
    assert row["left_ms"] == pytest.approx(8000 - floor - 2 * PAIRS / 2)
    assert row["outside_ms"] == 8000 - 500 * len(cpu._C.STAGES)


@pytest.mark.parametrize(
    ("isa", "seconds", "limit", "limit_ms"),
    [
        ("avx2", 30.0, "float32 T Vᵀ", 2000),  # torch emulates the product, the engine multiplies in float32
        ("avx2", 0.5, "float32 T Vᵀ", 2000),
        ("avx512_bf16", 0.5, "bfloat16 V Tᵀ", 500),
        ("avx512_bf16", 30.0, "float32 T Vᵀ", 2000),
    ],
)
def test_the_limit_in_bfloat16_is_the_fastest_product_of_what_the_engine_multiplies(
    monkeypatch, isa, seconds, limit, limit_ms
):
    monkeypatch.setattr(cpu, "_isa", isa)
    row = make_row(CASE, "bfloat16", "forward", make_samples(**{"T Vᵀ": 40.0, "V Tᵀ": seconds}))
    assert (row["bare_ms"], row["limit"], row["limit_ms"]) == (1e3 * seconds, limit, limit_ms)
    in_float32 = make_row(CASE, "float32", "forward", make_samples(**{"T Vᵀ": 0.5, "V Tᵀ": 0.5}))
    assert in_float32["limit"] == "float32 T Vᵀ"


def test_what_a_call_costs_is_no_part_of_an_exponential(monkeypatch):
    now = [0.0]

    def exponential(x, dtype):
        assert dtype == torch.bfloat16
        now[0] += 5.0 + 0.25 * len(x)

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(cpu, "exponential", exponential)
    assert sample_exponential(torch.bfloat16, calls=3) == {"forward": 0.25}


def test_the_picture_shows_every_stage_and_every_row(tmp_path):
    rows = [make_row(CASE, dtype, "forward", make_samples()) for dtype in ("float32", "bfloat16")]
    rows += [row | {"mode": "full", "ms": 9e3, "outside_ms": row["outside_ms"] + 1e3} for row in rows]
    results = {"machine": MACHINE, "commit": COMMIT, "roofline": rows}
    assert set(chart.STYLES) == {*cpu._C.STAGES, "outside the kernels"}

    figure = chart.make_figure(results)
    assert "Some CPU" in figure.get_suptitle()
    assert "0123456789ab" in figure.get_suptitle()
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert set(chart.STYLES) < set(names)
    assert len(names) == len(chart.STYLES) + 3
    for axes, ms in zip(figure.axes, (8e3, 9e3), strict=True):
        ends = [bar.get_x() + bar.get_width() for bar in axes.containers[-1]]
        assert ends == pytest.approx([ms, ms])
        marks = {each.get_label(): each.get_offsets()[:, 0].tolist() for each in axes.collections}
        floor, explained = rows[0]["floor_ms"], rows[0]["floor_ms"] + rows[0]["exponential_ms"]
        assert list(marks.values()) == [[2000, 2000], pytest.approx([floor] * 2), pytest.approx([explained] * 2)]

    chart.draw(results, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
