"""`gloria index`: build, search and evaluate from a shell's arguments, plain errors, and the page on retrieval."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from gloria.cli import app
from gloria.data import write_table
from gloria.index import EmbeddingIndex

PAGE = (Path(__file__).parents[2] / "docs" / "retrieval.md").read_text()


def index(*arguments):
    return CliRunner().invoke(app, ["index", *(str(argument) for argument in arguments)])


@pytest.fixture
def run(model, processor, tmp_path):
    for part in (model, processor):
        part.save_pretrained(tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def table(rows, tmp_path):
    """The rows, and one without an image."""
    write_table(tmp_path / "reports.csv", rows)
    with (tmp_path / "reports.csv").open("a") as file:
        file.write("gone.png,Left effusion.,,,a,,,\n")
    return tmp_path / "reports.csv"


def test_images_are_found_for_a_text(run, table, rows, tmp_path):
    out = tmp_path / "images"
    built = index("build", run, table, "--out", out, "--of", "images", "--faiss", "Flat", "--cpu")
    assert built.exit_code == 0, built.output
    assert f"{table}, line 13: {tmp_path / 'gone.png'} cannot be read as an image" in built.output
    assert f"{out}: 11 images, 1 shard," in built.output
    assert "left out 1 bad row of 12" in built.output
    exact = index("search", run, out, "--query", rows[4].report, "-k", 3, "--by", "local", "--cpu")
    assert exact.exit_code == 0, exact.output
    ranked = [line.split() for line in exact.stdout.splitlines()]
    assert [line[0] for line in ranked] == ["1", "2", "3"]
    assert sorted((float(line[1]) for line in ranked), reverse=True) == [float(line[1]) for line in ranked]
    assert {line[2] for line in ranked} <= {str(row.image) for row in rows}
    two = index("search", run, out, "--query", rows[4].report, "-k", 3, "--by", "local", "--candidates", 11, "--cpu")
    assert [line.split()[2] for line in two.stdout.splitlines()] == [line[2] for line in ranked]


def test_an_index_of_reports_needs_no_images(run, tmp_path):
    (tmp_path / "plain.csv").write_text('report\nLeft effusion.\n""\nNo effusion.\n')
    built = index("build", run, tmp_path / "plain.csv", "--out", tmp_path / "plain", "--of", "texts", "--cpu")
    assert built.exit_code == 0, built.output
    assert "line 3: the report is empty" in built.output
    assert len(EmbeddingIndex(tmp_path / "plain")) == 2
    refused = index("build", run, tmp_path / "plain.csv", "--out", tmp_path / "other", "--of", "images", "--cpu")
    assert refused.exit_code == 2
    assert "has the columns ['report']; expected one named 'image'" in refused.output


def test_reports_are_found_for_an_image_and_the_index_is_measured(run, table, rows, tmp_path):
    out = tmp_path / "texts"
    built = index("build", run, table, "--out", out, "--of", "texts", "--dtype", "float32", "--cpu")
    assert built.exit_code == 0, built.output
    assert f"{out}: 12 texts" in built.output
    found = index("search", run, out, "--image", rows[0].image, "-k", 99, "--no-verify", "--cpu")
    assert found.exit_code == 0, found.output
    assert len(found.stdout.splitlines()) == 12
    measured = index("evaluate", run, out, table, "-k", 1, "-k", 5, "--by", "both", "--cpu")
    assert measured.exit_code == 0, measured.output
    assert "11 images asked of 12 texts; 11 have a partner in the index" in measured.output
    header, line, chance = measured.output.splitlines()[-3:]
    assert header.split()[2:] == ["P@1", "P@5", "R@1", "R@5"]
    assert line.split()[0] == "both"
    assert chance.startswith("precision by chance")


def test_mistakes_end_in_a_line(run, table, rows, tmp_path):
    out = tmp_path / "index"
    assert index("build", run, table, "--out", out, "--of", "texts", "--cpu").exit_code == 0
    for arguments, message in (
        (["search", run, tmp_path, "--query", "a"], "holds no index (no manifest.json)"),
        (["search", run, out, "--query", "a"], "holds texts; expected --image, and it alone"),
        (["search", run, out, "--query", "a", "--image", rows[0].image], "expected --image, and it alone"),
        (["search", run, out, "--image", "gone.png"], "gone.png cannot be read as an image"),
        (["search", run, out, "--image", rows[0].image, "--candidates", 9], "has no FAISS index of its items"),
        (["build", run, table, "--out", out, "--of", "images"], "name another folder"),
        (["evaluate", run, out, table, "-k", 99], "ks has none of 1 to 12"),
    ):
        result = index(*arguments, "--cpu")
        assert result.exit_code == 2, result.output
        assert result.output.splitlines()[-1].startswith("gloria: ")
        assert message in result.output
        assert "Traceback" not in result.output
    (out / "shard-00000.safetensors").write_bytes(b"no shard")
    assert "it was cut off or changed" in index("search", run, out, "--image", rows[0].image, "--cpu").output


def test_an_empty_query_is_refused(run, table, tmp_path):
    assert index("build", run, table, "--out", tmp_path / "index", "--of", "images", "--cpu").exit_code == 0
    result = index("search", run, tmp_path / "index", "--query", " ", "--cpu")
    assert (result.exit_code, "--query is empty" in result.output) == (2, True)


def test_the_page_runs(run, table, rows, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    shutil.move(run, tmp_path / "runs" / "first")
    shutil.copy(rows[0].image, "image.png")
    commands = [
        line for block in re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL) for line in block.splitlines() if line
    ]
    assert len(commands) >= 4
    for command in commands:
        words = [word.strip('"') for word in re.findall(r'"[^"]*"|\S+', command.split("#")[0])]
        assert words[0] == "gloria"
        result = CliRunner().invoke(app, [*words[1:], "--cpu"])
        assert result.exit_code == 0, result.output
    # What the search of a corpus of one's own reads: regions of twelve images.
    np.random.default_rng(0).standard_normal((36, 768)).astype(np.float16).tofile("regions.f16")
    np.save("offsets.npy", np.arange(0, 37, 3))
    namespace: dict[str, object] = {}
    exec("\n".join(re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)), namespace)
    assert len(namespace["hits"]) == 5
    assert namespace["hits"][0].row.image in {row.image for row in rows}
    assert namespace["found"].scores.shape == (2, 10)
    assert namespace["images"].shape == (3, 10)
    assert len(EmbeddingIndex("indexes/images")) == 11
