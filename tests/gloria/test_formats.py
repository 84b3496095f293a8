"""Table formats: the same rows from CSV, JSON lines and Parquet, and every one names its bad record."""

import builtins
import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest

from gloria.data import Row, find_problems, read_table, split_rows, write_table


@pytest.fixture
def rows(tmp_path, picture_file):
    paths = [tmp_path / "images" / f"{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        picture_file(path, number)
    return [
        Row(2, paths[0], 'Quoted "words", a\u2028line, and\nanother', "p1", "train", "effusion", paths[1]),
        Row(4, paths[1], "Épanchement.", labels={"Edema": 1, "Lung Opacity": -1}, boxes=((1, 2, 3.5, 4), (0, 0, 1, 1))),
        Row(5, paths[2], "Words."),
    ]


@pytest.mark.parametrize(
    ("name", "first", "unit"), [("a.csv", 2, "line"), ("a.jsonl", 1, "line"), ("a.parquet", 1, "row")]
)
def test_rows_survive_every_format(tmp_path, rows, name, first, unit):
    write_table(tmp_path / name, rows)
    again = read_table(tmp_path / name)
    assert [row.line for row in again] == ([2, 4, 5] if name == "a.csv" else [1, 2, 3])
    for row, other in zip(rows, again, strict=True):
        assert other == Row(**{**vars(row), "line": other.line, "unit": unit})
    assert find_problems(again) == []
    assert again[0].where == f"{unit} {first}"


def test_packed_csv(tmp_path, rows):
    write_table(tmp_path / "a.csv", rows)
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress((tmp_path / "a.csv").read_bytes()))
    assert read_table(tmp_path / "b.csv.gz") == rows
    (tmp_path / "b.csv.gz").write_bytes((tmp_path / "b.csv.gz").read_bytes()[:50])
    with pytest.raises(ValueError, match=r"b\.csv\.gz cannot be read .* check that it is whole"):
        read_table(tmp_path / "b.csv.gz")


def test_bad_json_lines_are_named(tmp_path, rows):
    good = {"image": str(rows[0].image), "report": "Words.", "age": 50, "patient": 7, "split": None}
    lines = [json.dumps(good), "", '{"image": "a.png"', '["image", "report"]', '{"image": "a.png"}']
    lines += [
        json.dumps({"image": "gone.png", "report": None, "labels": "Edema=2"}),
        json.dumps(good | {"boxes": "1 2 3"}),
    ]
    (tmp_path / "a.ndjson").write_text("\n".join(lines))
    read = read_table(tmp_path / "a.ndjson")
    assert (read[0].patient, read[0].split) == ("7", "")
    assert [str(problem) for problem in find_problems(read)] == [
        "line 3: not valid JSON (Expecting ',' delimiter, column 18); write one object a line",
        "line 4: no JSON object with 'image' and 'report'",
        "line 5: no JSON object with 'report'",
        "line 6: labels holds 'Edema=2'; expected NAME=1, NAME=0 or NAME=-1, with ; between them",
        "line 7: boxes holds '1 2 3'; expected 'x y width height', finite, x and y from 0, width and "
        "height above 0, with ; between them",
    ]


def test_bad_parquet_rows_are_named(tmp_path, rows):
    table = {
        "image": [str(rows[0].image), "gone.png", None],
        "report": ["Words.", "Words.", ""],
        "patient": [1, 2, None],
    }
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "a.parquet", row_group_size=1)
    read = read_table(tmp_path / "a.parquet")
    assert [row.patient for row in read] == ["1", "2", ""]
    assert [str(problem) for problem in find_problems(read)] == [
        f"row 2: the image {tmp_path / 'gone.png'} does not exist",
        "row 3: the report is empty",
        "row 3: the image is not named",
    ]


def test_splits_name_rows_of_parquet(tmp_path):
    table = {"image": ["a", "b"], "report": ["x", "y"], "split": ["train", "maybe"]}
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="row 2: the split is 'maybe'"):
        split_rows(read_table(tmp_path / "a.parquet"))


def test_unusable_files_are_named(tmp_path, rows):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match=r"a\.parquet: not valid Parquet .* write it again"):
        read_table(tmp_path / "a.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"image": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"has the columns \['image'\]; expected one named 'report'"):
        read_table(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.xlsx is not a table; expected a file that ends in one of \.csv"):
        read_table(tmp_path / "a.xlsx")
    with pytest.raises(ValueError, match=r"a\.txt cannot be written; expected a name that ends in one of \.csv, \.tsv"):
        write_table(tmp_path / "a.txt", rows)
    (tmp_path / "a.jsonl").write_bytes(b'{"image": "a"}\n\xff')
    with pytest.raises(ValueError, match=r"a\.jsonl, line 2: not valid UTF-8"):
        read_table(tmp_path / "a.jsonl")


def test_parquet_without_pyarrow_names_the_fix(tmp_path, monkeypatch, rows):
    write_table(tmp_path / "a.parquet", rows)
    usual = builtins.__import__

    def without(name, *arguments, **keywords):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return usual(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    for act in (lambda: read_table(tmp_path / "a.parquet"), lambda: write_table(tmp_path / "b.parquet", rows)):
        with pytest.raises(ImportError, match="is Parquet, which pyarrow reads and writes; pip install pyarrow"):
            act()
