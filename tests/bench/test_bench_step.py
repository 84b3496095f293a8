"""The largest batch follows from the curve of memory and is told apart from what was run, in table and picture."""

from types import SimpleNamespace

import psutil
import pytest
from matplotlib import pyplot as plt

from bench import report, step_chart
from bench.step import MODELS, PARTS, does_not_fit, largest

MACHINE = {"cpu": "Some CPU", "cores": 2, "isa": "avx512", "torch": "2.13", "threads": 2}
RESULTS = {"machine": MACHINE, "commit": {"id": "0123456789abcdef", "dirty": False}}
GIBIBYTE = 2**30


def row(contender, batch, peak, **more):
    parts = dict(zip(PARTS, (60.0, 30.0, 5.0, 5.0), strict=True))
    measured = {"ms": 100.0, "parts_ms": parts, "peak_bytes": round(peak), **more}
    return {"model": "small", "batch": batch, "words": 46 * batch, "contender": contender} | measured


def curves():
    """The memory of the loop grows with the square of the batch, that of the others with the batch."""
    rows = []
    for batch in (10, 20, 40):
        rows.append(row("loop", batch, 1e6 + 1e5 * batch + 1e3 * batch**2, per_loop=1.0))
        rows.append(row("fused", batch, 1e6 + 1e5 * batch, per_loop=2.5))
        rows.append(row("cached", batch, 1e6 + 1e3 * batch, per_loop=0.9))
    return rows


def test_the_largest_batch_is_where_the_curve_meets_the_memory():
    found = {each["contender"]: each for each in largest(curves(), 100_000_500)}
    assert found["fused"]["largest"] == 990
    assert found["cached"]["largest"] == 99_000
    assert found["loop"]["largest"] == 268  # 1e3 n^2 + 1e5 n = 99e6
    assert {each["largest_run"] for each in found.values()} == {40}


def test_what_does_not_fit_is_foreseen_from_smaller_batches(monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=GIBIBYTE))
    measured = {8: GIBIBYTE // 10, 16: GIBIBYTE // 5}
    assert does_not_fit("fused", {"fused": measured}, 32) is None
    assert does_not_fit("fused", {"fused": measured}, 160) == "not run: about 2 GiB"
    assert does_not_fit("fused", {"fused": {8: GIBIBYTE}}, 160) is None  # one point is no line
    more = {batch: peak + batch**2 * GIBIBYTE // 1024 for batch, peak in measured.items()}
    assert does_not_fit("loop", {"fused": measured, "loop": {}}, 32) is None
    assert does_not_fit("loop", {"fused": measured, "loop": more}, 64) == "not run: about 5 GiB"


@pytest.mark.parametrize("name", list(MODELS))
def test_batches_ascend(name):
    assert list(MODELS[name].batches) == sorted(MODELS[name].batches)


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_tables_show_shares_the_whole_steps_ratio_and_what_was_not_run():
    rows = [*curves()[-3:], {**row("loop", 80, 0), "left_out": "not run: about 9 GiB"}]
    _, _, loop, fused, cached, left_out = (cells(line) for line in report.step(rows))
    assert loop[:8] == ["small", "40", "1840", "loop", "100", "60.0", "30.0", "5.0"]
    assert (fused[9], cached[9]) == ("2.50", "**0.90**")
    assert left_out[4] == "not run: about 9 GiB"
    lines = [cells(line) for line in report.largest(largest(curves(), 10_000_000))[2:]]
    assert lines[1][1:] == ["loop", "0.0", "57", "extrapolated from N = 40"]


def test_a_batch_beyond_memory_is_not_called_the_largest():
    found = {each["contender"]: each for each in largest(curves(), 5_000_000)}
    assert found["fused"]["largest"] == 40
    assert cells(report.largest([found["fused"]])[2])[-1] == "run"


def test_picture_has_every_row_and_every_curve():
    results = RESULTS | {"step": curves(), "largest": largest(curves(), 100_000_000)}
    figure = step_chart.make_figure(results)
    times, memory = figure.axes
    assert len(times.get_yticks()) == 9
    widths = [sum(bar.get_width() for bar in bars) for bars in zip(*times.containers, strict=True)]
    assert widths == pytest.approx([100 / batch for batch in (10, 20, 40) for _ in range(3)])
    labels = {line.get_label(): line.get_xydata()[:, 0].tolist() for line in memory.lines}
    assert [labels[name] for name in ("loop", "fused", "cached")] == [[10, 20, 40]] * 3
    plt.close(figure)
