"""`gloria reproduce`: the whole suite at toy size, its page against its JSON files, and cells that fail or die."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import matplotlib.pyplot as plt
import pytest
import torch
from typer.testing import CliRunner

import gloria.data.fractions
import gloria.reproduce.schedule
import gloria.training.run
from gloria.cli import app
from gloria.data import Row
from gloria.reproduce import FULL, QUICK, Budget, reproduce, write_page
from gloria.reproduce.cells import Cell
from gloria.reproduce.page import bars
from gloria.reproduce.published import TABLES
from gloria.reproduce.schedule import run_cells
from gloria.reproduce.suites import SUITES, _phantoms, prepare, rows_of
from gloria.reproduce.systems import SYSTEMS, described
from gloria.reproduce.tables import NAMES, filled_tables

TOY = Budget(
    seeds=1, pixels=32, steps=2, batch_size=8, phantoms=48, of_each=2, fractions=(0.3, 1.0), mask_fractions=1,
    mask_steps=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """The folder of the whole quick suite at toy size, and what it told."""
    out, told = tmp_path_factory.mktemp("toy"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gloria.data.fractions, "DRAWS", 2)
        for name in ("attention_figure", "loss_figure"):  # the pictures of a run are tested elsewhere
            patch.setattr(gloria.training.run, name, lambda *_, **__: plt.figure())
        patch.setitem(SUITES, "phantom", lambda *given: replace(_phantoms(*given), mask_fractions=(0.5,)))
        reproduce("phantom", None, out, TOY, jobs=1, tell=told.append)
    return out, told


def cells_of(out):
    return [json.loads(path.read_text()) for path in sorted((out / "cells").glob("*.json"))]


def lines_of(page):
    """The rows of the Markdown tables, by their heading."""
    return {
        title: [[cell.strip() for cell in line.strip("|").split("|")] for line in re.findall(r"^\|.*\|$", text, re.M)]
        for title, text in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", page, re.M | re.S)
    }


def test_the_whole_suite_fills_every_table(toy):
    out, told = toy
    assert not (out / "failures").exists()
    assert len(told) == len(cells_of(out)) == len(json.loads((out / "plan.json").read_text())["cells"])
    assert told[0].startswith("[1/")
    assert "min left" in told[1]
    assert "min left" not in told[-1]
    page = (out / "README.md").read_text()
    tables = lines_of(page)
    for table in TABLES:
        systems = [line[0] for line in tables[table.title][2:]]
        assert {name for name in table.systems if name in SYSTEMS} <= {*systems}
        assert (out / f"{table.task}.png").stat().st_size > 1000
        assert f'src="{table.task}.png"' in (out / "index.html").read_text()
    assert "- classification of imagenet: the weights of ImageNet are no part of the package" in page
    assert page.count("Classes: Atelectasis, Cardiomegaly, Consolidation, Edema, Pleural Effusion.") == 2
    assert "## Failed" not in page
    assert "## Not done yet" not in page
    (guess,) = [cell["results"]["chance"] for cell in cells_of(out) if cell["settings"]["task"] == "zero-shot"]
    assert guess == pytest.approx(
        {"accuracy": 0.68, "sensitivity": 0.2, "specificity": 0.8, "PPV": 0.2, "NPV": 0.8, "F1": 0.2}
    )
    draws = [cell["results"]["draws"] for cell in cells_of(out) if cell["settings"]["fraction"] == 0.5]
    assert {len(each) for each in draws} == {2}
    assert not any(path.name == "checkpoints" for path in out.rglob("*"))


def test_the_page_is_what_the_json_files_say(toy):
    out, _ = toy
    tables, compared = lines_of((out / "README.md").read_text()), 0
    for table in TABLES:
        header, _, *lines = tables[table.title]
        metrics = [name for name in header if name in {NAMES.get(metric, metric) for metric in table.metrics}]
        assert len(metrics) == len(table.metrics)
        for line in lines:
            found = dict(zip(header, line, strict=True))
            percent = re.search(r"\((\d+) %\)", found.get("labels", ""))
            tasks = [table.task, table.beside.get("task")] if not percent or table.beside else [table.task]
            results = [
                cell["results"]
                for cell in cells_of(out)
                if cell["settings"]["system"] == found["system"]
                and cell["settings"]["task"] in tasks
                and cell["settings"]["fraction"] == (int(percent[1]) / 100 if percent else None)
            ]
            for metric in table.metrics:
                shown = found[NAMES.get(metric, metric)]
                if not results:
                    assert found["system"] in ("chance", "nothing anywhere")
                elif metric not in results[0]["figures"]:
                    assert shown == "–"
                elif results[0]["collapsed"]:  # so it is called after two steps, if no cosines differ by the margin
                    assert shown == "collapsed (1 of 1)"
                else:
                    assert shown == f"{100 * results[0]['figures'][metric]:.1f}"
                    compared += 1
    assert compared > 40


def test_what_is_there_is_not_measured_again(toy):
    out, _ = toy
    page = (out / "README.md").read_bytes()
    (gone,) = (out / "cells").glob("retrieval_dsve_*.json")
    gone.unlink()
    told = []
    reproduce("phantom", None, out, TOY, jobs=1, tell=told.append)
    assert len(told) == 2
    assert re.fullmatch(r"(\d+) of (\d+) cells are there already", told[0])
    assert "retrieval of dsve, seed 0: P@5 0." in told[1]
    assert gone.is_file()
    text = (out / "README.md").read_bytes()
    assert re.sub(rb"took \d+ min", b"", text) == re.sub(rb"took \d+ min", b"", page)
    write_page(out)
    assert (out / "README.md").read_bytes() == text


def test_cells_are_known_by_all_that_decides_them():
    base = Cell("gloria", 0, "classification", 0.01, {"data": "a"}, "before")
    others = [
        Cell("global", 0, "classification", 0.01, {"data": "a"}, "before"),
        Cell("gloria", 1, "classification", 0.01, {"data": "a"}, "before"),
        Cell("gloria", 0, "classification", 0.1, {"data": "a"}, "before"),
        Cell("gloria", 0, "classification", 0.01, {"data": "b"}, "before"),
        Cell("gloria", 0, "classification", 0.01, {"data": "a"}, "another"),
    ]
    assert len({each.name for each in [base, *others]}) == 6
    assert base.name.startswith("classification_gloria_0_0.01_")


def test_settings_hold_what_decides_a_system():
    found = [described(system, budget, 1600) for system in SYSTEMS for budget in (QUICK, FULL)]
    assert len({json.dumps(each) for each in found}) == len(found)
    assert described("convirt", QUICK, 1600)["training"]["text"] == "affirmed"
    assert described("vse++", QUICK, 1600)["training"]["epochs"] == 400 // 50
    assert "cache" not in described("gloria", QUICK, 1600)["training"]


def test_a_failure_loses_one_cell_and_those_that_need_it(tmp_path):
    first = [Cell(name, 0, "pretraining") for name in ("good", "bad")]
    cells = first + [Cell(each.system, 0, "retrieval", after=each.name) for each in first]
    told = []

    def work(cell):
        if cell.system == "bad":
            raise ValueError("no luck")
        cell.write(tmp_path, {"cell": cell.name}, 60)
        return "fine"

    run_cells(cells, tmp_path, 1, work, told.append)
    assert told[:2] == [
        "[1/4] pretraining of good, seed 0: fine; about 3 min left",
        "[2/4] pretraining of bad, seed 0: failed: ValueError: no luck; about 2 min left",
    ]
    assert "[3/4] retrieval of good, seed 0: fine" in told
    assert {path.stem for path in (tmp_path / "cells").iterdir()} == {cells[0].name, cells[2].name}
    reasons = {path.stem: json.loads(path.read_text())["reason"] for path in (tmp_path / "failures").iterdir()}
    assert reasons == {cells[1].name: "ValueError: no luck", cells[3].name: f"{cells[1].name} failed"}


def dying(cell):
    """Work that ends its process without a word, once."""
    out = Path(cell.settings["out"])
    if cell.system == "dies" and not (out / "died").exists():
        (out / "died").touch()
        os._exit(9)
    cell.write(out, {"threads": torch.get_num_threads(), "pid": os.getpid()}, 1)
    return "fine"


def test_a_process_that_dies_takes_one_cell_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr(gloria.reproduce.schedule, "START", "fork")  # sooner there
    cells = [Cell(name, 0, "retrieval", settings={"out": str(tmp_path)}) for name in ("a", "dies", "b", "c")]
    told = []
    run_cells(cells, tmp_path, 2, dying, told.append)
    assert sum("dies, seed 0: failed: its process died" in line for line in told) == 1
    assert len(cells_of(tmp_path)) == 3
    assert {cell["results"]["threads"] for cell in cells_of(tmp_path)} == {1}
    assert os.getpid() not in {cell["results"]["pid"] for cell in cells_of(tmp_path)}
    run_cells(cells, tmp_path, 1, dying, told.append)
    assert len(cells_of(tmp_path)) == 4
    assert not [*(tmp_path / "failures").iterdir()]


def result(system, seed, p5, collapsed=False):
    figures = {"P@5": p5, "P@10": 0.4}
    settings = {"task": "retrieval", "system": system, "seed": seed, "fraction": None}
    return {"settings": settings, "results": {"figures": figures, "chance": 0.2, "collapsed": collapsed}, "seconds": 1}


def test_means_deviations_and_what_collapsed():
    values = {"gloria": (0.9, 0.8, 0.85), "vse++": (0.7, 0.2, 0.7)}
    cells = {
        f"{system}{seed}": result(system, seed, value, collapsed=value == 0.2)
        for system, of_seeds in values.items()
        for seed, value in enumerate(of_seeds)
    }
    (filled,) = filled_tables(cells)
    vse, gloria_ = (line.figures["P@5"] for line in filled.lines)
    assert gloria_.text == f"{100 * mean(values['gloria']):.1f} ± {100 * stdev(values['gloria']):.1f}" == "85.0 ± 5.0"
    assert vse.text == "collapsed (1 of 3)"
    assert vse.percent is vse.deviation is None
    (axis,) = bars(filled).axes
    assert [text.get_text() for text in axis.texts] == ["collapsed"] * 2
    heights = {bar.get_label(): [each.get_height() for each in bar] for bar in axis.containers if len(bar) == 2}
    assert max(heights["vse++"]) == 0
    assert heights["gloria"] == pytest.approx([85, 40])


def test_chexpert_is_trained_on_what_5x200_leaves(chexpert_tree, tmp_path):
    budget = Budget(of_each=1)
    prepared = prepare("chexpert5x200", chexpert_tree, tmp_path, budget)
    assert prepared["not_run"]["pretraining"].startswith("the data have no reports; give --runs")
    parts, (five,) = rows_of(tmp_path, "classification"), rows_of(tmp_path, "zero-shot").values()
    assert {*parts} == {"train", "validation", "test"}
    patients = [{row.patient for row in rows} for rows in (*parts.values(), five)]
    assert sum(map(len, patients)) == len(set.union(*patients))
    assert {len(row.labels) for rows in parts.values() for row in rows} == {5}
    assert {value for rows in parts.values() for row in rows for value in row.labels.values()} == {0, 1}


def test_siim_trains_on_as_many_with_as_without(siim_tree, tmp_path, monkeypatch):
    monkeypatch.setattr("gloria.data.layouts.siim.released_split", lambda names: dict.fromkeys(names, "train"))
    prepare("siim", siim_tree, tmp_path, TOY)
    (rows,) = rows_of(tmp_path, "segmentation-pneumothorax").values()
    assert sorted(row.labels["Pneumothorax"] for row in rows) == [0, 1, 1]
    assert all(isinstance(row, Row) and row.mask.is_file() for row in rows)


def test_data_without_reports_say_why_nothing_was_run(rsna_tree, tmp_path):
    (rsna_tree / "stage_2_train_labels.csv").write_text(
        "patientId,x,y,width,height,Target\n" + "".join(f"{number},,,,,0\n" for number in range(8))
    )
    for number in range(8):
        (rsna_tree / "stage_2_train_images" / f"{number}.dcm").touch()
    page = reproduce("rsna", rsna_tree, tmp_path / "out", TOY, jobs=1).read_text()
    assert "0 of 0 cells" in page
    assert "- retrieval: RSNA has no reports" in page
    assert "- classification: the data have no reports; give --runs" in page
    assert "- segmentation-nodule: RSNA has boxes and no masks" in page


def test_published_figures_have_a_source():
    for table in TABLES:
        assert {*table.systems} <= {*SYSTEMS, "imagenet"}
        for each in table.published:
            assert each["source"]["url"].startswith("https://")
            assert each["source"]["text"]
            assert {*each["figures"]} <= {*table.systems}
            assert all({*of_system} == {0.01, 0.1, 1.0} for of_system in each["figures"].values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suite", "mimic"], "suite is 'mimic'; expected one of 'phantom', 'chexpert5x200', 'rsna', 'siim'"),
        (["--suite", "rsna"], "data is None; expected of the suite rsna the unpacked data set: name its folder with"),
        (["--data", "x"], "data is x; expected of the suite phantom none, phantoms are drawn"),
        (["--suite", "siim", "--data", "nowhere"], "nowhere holds no train-rle.csv"),
    ],
)
def test_impossible_suites_end_in_a_line(tmp_path, arguments, message):
    found = CliRunner().invoke(app, ["reproduce", "--out", str(tmp_path / "out"), *arguments])
    assert found.exit_code == 2
    assert found.output.startswith("gloria: ")
    assert message in found.output
    assert len(found.output.splitlines()) == 1


def test_runs_that_are_none(rsna_tree, tmp_path):
    for number in range(8):
        (rsna_tree / "stage_2_train_images" / f"{number}.dcm").touch()
    with pytest.raises(ValueError, match=r"nowhere has no pre-trained system; expected the OUT of `gloria reproduce"):
        reproduce("rsna", rsna_tree, tmp_path / "out", TOY, jobs=1, runs=tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"holds no plan\.json; expected the folder that `gloria reproduce`"):
        write_page(tmp_path)
    with pytest.raises(ValueError, match="jobs is 0; expected at least 1"):
        reproduce("phantom", None, tmp_path / "out", TOY, jobs=0)
