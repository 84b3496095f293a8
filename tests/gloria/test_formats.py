"""Table formats: the same rows from CSV, TSV, JSON lines and Parquet, and every one names its bad record."""

import builtins
import gzip
import json
import re

import pyarrow
import pyarrow.parquet
import pytest

from gloria.data import Row, find_problems, read_table, split_rows, write_table
from gloria.data.formats import FORMATS, is_table


@pytest.fixture
def rows(tmp_path, picture_file):
    paths = [tmp_path / "images" / f"{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        picture_file(path, number)
    return [
        Row(2, paths[0], 'Quoted "words", a\u2028line, and\nanother', "p1", "train", "effusion", paths[1]),
        Row(
            4,
            paths[1],
            "Épanchement.",
            labels={"Edema": 1, "Lung Opacity": -1},
            boxes=((1234.56789, 2, 3.5, 4), (0, 0, 1, 1)),
        ),
        Row(5, paths[2], "Words."),
    ]


@pytest.mark.parametrize("name", [*(f"a{ending}" for ending in FORMATS), "A.CSV", "a.Jsonl.GZ", "a.PARQUET", "b.TSV"])
def test_rows_survive_every_format(tmp_path, rows, name):
    unit, separated = "row" if "parquet" in name.lower() else "line", "sv" in name.lower()
    write_table(tmp_path / name, rows)
    again = read_table(tmp_path / name)
    assert [row.line for row in again] == ([2, 4, 5] if separated else [1, 2, 3])
    for row, other in zip(rows, again, strict=True):
        assert other == Row(**{**vars(row), "line": other.line, "unit": unit})
    assert find_problems(again) == []
    assert again[0].where == f"{unit} {again[0].line}"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "images"])  # no unfinished file is left
    if name.lower().endswith(".gz"):
        assert gzip.decompress((tmp_path / name).read_bytes())


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


def test_tables_are_known_by_their_endings():
    assert is_table("a/b.Tsv.GZ")
    assert not any(map(is_table, ("a.yaml", "a.parquet.gz", "csv", "a.csv/b", "a.gz")))


def rows_in_every_format(folder, records):
    """The rows of the same records, as each format has them."""
    columns = list(records[0])
    tables = {}
    for ending in FORMATS:
        path = folder / f"a{ending}"
        opened = gzip.open if ending.endswith(".gz") else open
        if ending == ".parquet":
            columnwise = {name: [record[name] for record in records] for name in columns}
            pyarrow.parquet.write_table(pyarrow.table(columnwise), path)
        else:
            with opened(path, "wt") as file:
                if "json" in ending:
                    file.writelines(json.dumps(record) + "\n" for record in records)
                else:
                    separator = "," if ".csv" in ending else "\t"
                    lines = [
                        columns,
                        *(["" if cell is None else str(cell) for cell in each.values()] for each in records),
                    ]
                    file.writelines(separator.join(line) + "\n" for line in lines)
        tables[ending] = read_table(path)
    return tables


def test_every_format_has_the_same_notion_of_missing(tmp_path):
    numbers = [float("nan"), 10000032.0, None, 10000033.0]
    texts = ["nan", None, "Edema", "<NA>"]
    records = [
        {"image": f"{row}.png", "report": texts[row], "patient": numbers[row], "label": numbers[3 - row], "split": None}
        for row in range(4)
    ]
    tables = rows_in_every_format(tmp_path, records)
    for ending, rows in tables.items():
        assert [row.report for row in rows] == ["", "", "Edema", ""], ending
        assert [row.patient for row in rows] == ["", "10000032", "", "10000033"], ending
        assert [row.label for row in rows] == ["10000033", "", "10000032", ""], ending
        assert [row.missing.get("report") for row in rows] == ["nan", None, None, "<NA>"], ending
        assert {row.split for row in rows} == {""}
        assert not any(row.fault for row in rows)


def test_a_report_of_any_length(tmp_path):
    report = "word " * 200_000 + "end"
    for ending, rows in rows_in_every_format(tmp_path, [{"image": "a.png", "report": report}]).items():
        assert rows[0].report == report, ending


@pytest.mark.parametrize("column", ["image", "report", "patient", "finding"])
def test_a_column_that_is_there_twice_is_refused(tmp_path, column):
    columns = ["image", "report", "patient", "finding", column, "", "", "other", "other"]
    (tmp_path / "a.csv").write_text(",".join(columns) + "\n" + "a," * 8 + "a\n")
    arrays = [pyarrow.array(["a"]) for _ in columns]
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays(arrays, columns), tmp_path / "a.parquet")
    for name in ("a.csv", "a.parquet"):
        with pytest.raises(ValueError, match=rf"{name} has the columns .*; expected one named '{column}'"):
            read_table(tmp_path / name)
    (tmp_path / "a.jsonl").write_text(
        f'{{"image": "a", "report": "b", "other": 1, "other": 2, "{column}": 1, "{column}": 2}}'
    )
    (row,) = read_table(tmp_path / "a.jsonl")
    assert row.fault == f"'{column}' appears twice; write each name once"


def test_columns_that_nobody_reads_may_hold_anything(tmp_path):
    record = {"image": "a", "report": "b", "ages": [1, 2], "view": {"name": "PA"}, "far": float("inf")}
    (tmp_path / "a.jsonl").write_text(json.dumps(record))
    pyarrow.parquet.write_table(
        pyarrow.table({name: [value] for name, value in record.items()}), tmp_path / "a.parquet"
    )
    for name in ("a.jsonl", "a.parquet"):
        (row,) = read_table(tmp_path / name)
        assert (row.report, row.fault) == ("b", "")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('"report": ["Clear.", "Still."]', r"report holds a list, \['Clear\.', 'Still\.'\]; expected text"),
        ('"report": {"findings": "Clear."}', r"report holds an object, \{'findings': 'Clear\.'\}; expected text"),
        ('"report": "\\ud83d"', r"report is '\\ud83d', which is not valid Unicode"),
        ('"report": "a", "patient": Infinity', "patient is inf; expected text or a finite number"),
        ('"report": "a", "patient": 1e999', "patient is inf; expected text or a finite number"),
        ('"report": "a", "boxes": [[1, 2, 3, 4]]', r"boxes holds a list, \[\[1, 2, 3, 4\]\]; expected text"),
        ('"report": ' + "[" * 100_000 + "]" * 100_000, r"JSON that cannot be read \(maximum recursion depth .*\)"),
        ('"report": ' + "9" * 10_000, "JSON that cannot be read .*limit.*digits"),
    ],
)
def test_json_that_is_no_text_is_a_bad_row(tmp_path, text, fault):
    (tmp_path / "a.jsonl").write_text(
        '{"image": "a", "report": "b"}\n{"image": "a", ' + text + '}\n{"image": "c", "report": "d"}'
    )
    rows = read_table(tmp_path / "a.jsonl")
    assert [row.line for row in rows] == [1, 2, 3]
    assert [bool(row.fault) for row in rows] == [False, True, False]
    assert re.match(fault, rows[1].fault), rows[1].fault


def test_parquet_of_other_types(tmp_path):
    def rows(report):
        table = pyarrow.table({"image": ["a.png"] * len(report), "report": report})
        pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
        return read_table(tmp_path / "a.parquet")

    not_utf8 = pyarrow.Array.from_buffers(pyarrow.string(), 2, pyarrow.array([b"a", b"\xff"]).buffers())
    assert [row.fault for row in rows(not_utf8)] == [
        "",
        "report holds bytes that are not UTF-8: b'\\xff'; expected text",
    ]
    assert [row.report for row in rows(pyarrow.array([b"Clear.", None]))] == ["Clear.", ""]
    assert [row.report for row in rows(pyarrow.array(["a", "b", "a"]).dictionary_encode())] == ["a", "b", "a"]
    assert [row.report for row in rows(pyarrow.array([1], pyarrow.timestamp("ns")))] == [
        "1970-01-01 00:00:00.000000001"
    ]
    assert [row.fault for row in rows([["a"], None])] == ["report holds a list, ['a']; expected text", ""]


@pytest.mark.parametrize("ending", [".csv.gz", ".tsv.gz", ".jsonl.gz", ".ndjson.gz"])
def test_damage_to_the_body_of_a_packed_table_is_named(tmp_path, ending):
    text = ("a\tb\n" if "tsv" in ending else '{"image": "a", "report": "b"}\n' if "json" in ending else "a,b\n") * 2000
    packed = bytearray(
        gzip.compress(
            ("" if "json" in ending else "image\treport\n" if "tsv" in ending else "image,report\n").encode()
            + text.encode()
        )
    )
    path = tmp_path / f"a{ending}"
    for damage in (
        lambda: packed[: len(packed) // 2],
        lambda: packed[:20] + bytes(8) + packed[28:],
        lambda: b"no gzip",
    ):
        path.write_bytes(damage())
        with pytest.raises(ValueError, match=r"a\.\w+\.gz cannot be read \(.*\); check that it is whole$"):
            read_table(path)


def test_texts_that_no_file_can_hold_are_not_written(tmp_path):
    for ending in FORMATS:
        path = tmp_path / f"a{ending}"
        path.write_bytes(b"before")
        with pytest.raises(ValueError, match=r"report of row 2 is '\\ud800', which is not valid Unicode"):
            write_table(path, [Row(2, None, "Words."), Row(3, None, "\ud800")])
        assert path.read_bytes() == b"before"
        assert len(list(tmp_path.iterdir())) == 1
        path.unlink()


def test_a_table_takes_its_name_when_it_is_whole(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gloria.data.formats._write_lines", full)
    (tmp_path / "a.csv").write_bytes(b"before")
    with pytest.raises(OSError, match=r"a\.csv could not be written: no space is left"):
        write_table(tmp_path / "a.csv", [Row(2, None, "Words.")])
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.csv", b"before")]
