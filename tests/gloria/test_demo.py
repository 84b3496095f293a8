"""The demo: it runs on a table and on phantoms, prints what it promises and leaves the pictures."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench import first_picture
from gloria import demo
from gloria.data import Row, write_phantoms
from gloria.retrieval import Similarities


def test_runs_on_phantoms_and_on_a_table(tmp_path, capsys, no_network):
    table = write_phantoms(tmp_path / "hospital", 12, size=64)
    demo.demo(tmp_path / "out", [str(table), demo.PHANTOMS], steps=1, count=15)
    printed = capsys.readouterr().out
    assert "== hospital: 10 rows to train on, 2 of other patients held out" in printed
    assert "== phantoms: 15 rows to train on, 5 of other patients held out" in printed
    for each in ("global", "local", "both", "fused", "unfused", "chance", "attention is inside the outline"):
        assert printed.count(f"{each}") >= 2
    for name in ("hospital", "phantoms"):
        out = tmp_path / "out" / name
        assert [line.split()[0] for line in printed.splitlines() if str(out) in line] == [
            str(out / file) for file in demo.SHOWN
        ]
        for picture in ("loss.png", "attention.png", "retrieval.png"):
            assert np.asarray(Image.open(out / picture)).std() > 0
        assert "<title>Held out: " in (out / "attention.html").read_text(encoding="utf-8")

    # The picture of the first page is drawn from that run.
    first_picture.main(["--run", str(tmp_path / "out" / "phantoms"), "--out", str(tmp_path / "first.png")])
    assert np.asarray(Image.open(tmp_path / "first.png")).std() > 0


def test_the_picture_of_the_first_page_is_small():
    assert first_picture.OUT.stat().st_size < 300 * 1024


def test_the_word_that_names_the_finding_is_shown():
    row = Row(2, Path("image.png"), "Small left EFFUSSION, layering. No effusion.", label="Pleural Effusion")
    assert first_picture.naming_word(row) == "layering"
    assert first_picture.naming_word(replace(row, report="Effussion.")) is None


def test_the_first_row_with_an_outlined_finding_is_shown(tmp_path):
    for name, bright in (("empty.png", 0), ("full.png", 255)):
        Image.new("L", (8, 8), bright).save(tmp_path / name)
    rows = [
        Row(line, tmp_path / "image.png", "words", mask=mask and tmp_path / mask)
        for line, mask in enumerate((None, "empty.png", "full.png", "full.png"), 2)
    ]
    assert demo.shown_row(rows).line == 4
    assert demo.shown_row(rows[:2]).line == 2


def test_nothing_is_said_of_attention_where_nothing_is_outlined(model, processor, tmp_path):
    assert demo.where_words_look(model, processor, [Row(2, tmp_path / "image.png", "words")]) == ""


def test_a_second_demo_replaces_the_first(tmp_path, no_network):
    for _ in range(2):
        demo.demo(tmp_path, [demo.PHANTOMS], steps=1, count=10)
    assert len(list((tmp_path / "phantoms" / "checkpoints").iterdir())) == 1


def test_data_may_be_given_several_times_and_another_seed(monkeypatch):
    asked = []
    monkeypatch.setattr(demo, "demo", lambda out, data, steps, count, seed: asked.append((data, seed)))
    demo.main([])
    demo.main(["--data", "a.csv", "--data", "phantoms", "--seed", "3"])
    assert asked == [(["phantoms"], 0), (["a.csv", "phantoms"], 3)]


def test_mistakes_are_told(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        demo.main(["--out", str(tmp_path), "--data", "none.csv"])
    assert "none.csv does not exist" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        demo.main(["--data", "a/one.csv", "--data", "a/two.csv"])
    assert "runs of the names ['a', 'a']; expected tables in folders of different names" in capsys.readouterr().err


def test_montage_frames_tell_right_from_wrong(tmp_path):
    paths = []
    for number in range(3):
        paths.append(tmp_path / f"{number}.png")
        Image.new("L", (8, 8), number * 50).save(paths[-1])
    rows = [
        Row(line, path, "words " * 60, label=label)
        for line, (path, label) in enumerate(zip(paths, "aab", strict=True), 2)
    ]
    scores = torch.tensor([[3.0, 3.0, 1.0], [1.0, 1.0, 3.0], [2.0, 2.0, 2.0]])
    figure = demo.montage(Similarities(scores, scores), rows, k=2)
    panels = [axis for axis in figure.axes if axis.images]
    assert [axis.get_title() for axis in panels] == ["a (its own)", "b", "a", "b (its own)"]
    colors = [axis.spines["left"].get_edgecolor()[:2] for axis in panels]
    green = colors[0]
    assert [color == green for color in colors] == [True, False, False, True]


@pytest.mark.parametrize(("reached", "says"), [(0.9, "Learning is visible"), (0.2, "Little above chance")])
def test_judgment_follows_the_figures(reached, says):
    assert demo._verdict({"image to text": {"both P@5": reached, "chance": 1}}, 0.1, 20).startswith(says)
