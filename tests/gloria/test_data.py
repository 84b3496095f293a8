"""Tables: rows with the right line numbers, every kind of bad row named, a split without a patient on both sides."""

import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gloria.data import Row, find_problems, find_warnings, read_table, split_rows, write_table


def picture(path, value):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.random.default_rng(value).integers(0, 256, (8, 9), dtype=np.uint8)).save(path)


def table(folder, text, encoding="utf-8"):
    path = folder / "data.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_rows_have_the_line_they_start_on(tmp_path):
    path = table(
        tmp_path,
        'image,report,patient,finding\r\na.png,"Two\r\nlines, quoted",p1,effusion\r\n\r\nb.png, One line. ,,\r\n',
    )
    rows = read_table(path)
    assert rows == [
        Row(2, tmp_path / "a.png", "Two\r\nlines, quoted", "p1", "", "effusion"),
        Row(5, tmp_path / "b.png", "One line."),
    ]


def test_label_goes_before_finding_and_a_byte_order_mark_is_ignored(tmp_path):
    path = table(tmp_path, "image,report,label,finding,mask\na.png,Words.,one,two,m.png\n", "utf-8-sig")
    (row,) = read_table(path)
    assert (row.label, row.mask) == ("one", tmp_path / "m.png")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,text\na.png,Words.\n", r"columns \['image', 'text'\]; expected one named 'report'"),
        ("image,report,report\na,b,c\n", "expected one named 'report'"),
        ("image,report\n", "has no row"),
        ("", "has no row"),
        ('image,report\na.png,"Words." and more\n', "line 2: not valid CSV .* check the quotes"),
        ('image,report\na.png,fine\nb.png,"never closed\n', "line 3: not valid CSV"),
    ],
)
def test_unusable_tables(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_table(table(tmp_path, text))


def test_other_encodings_are_named_with_their_line(tmp_path):
    with pytest.raises(ValueError, match=r"line 3: not valid UTF-8 .* save the table as UTF-8"):
        read_table(table(tmp_path, "image,report\na.png,Words.\nb.png,Épanchement.\n", "latin-1"))


def test_missing_table(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.csv does not exist; expected a table with"):
        read_table(tmp_path / "none.csv")


def test_every_kind_of_bad_row_is_named(tmp_path):
    for number in range(4):
        picture(tmp_path / f"{number}.png", number)
    (tmp_path / "copy.png").write_bytes((tmp_path / "0.png").read_bytes())
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)).save(whole, "PNG")
    (tmp_path / "cut.png").write_bytes(whole.getvalue()[: whole.tell() // 2])
    (tmp_path / "text.png").write_text("no image")
    path = table(
        tmp_path,
        "image,report\n"
        '0.png,"On\ntwo lines."\n'  # 2, 3
        "gone.png,Words.\n"  # 4
        "cut.png,Words.\n"  # 5
        "text.png,Words.\n"  # 6
        "1.png,  \n"  # 7
        ",Words.\n"  # 8
        '0.png,"On\ntwo lines."\n'  # 9, 10
        "copy.png,Other words.\n"  # 11
        "2.png,Words, unquoted.\n"  # 12
        "3.png,Words.\n",  # 13
    )
    found = [str(problem) for problem in find_problems(read_table(path))]
    expected = [
        (4, "does not exist"),
        (5, "unreadable"),
        (6, "unreadable"),
        (7, "the report is empty"),
        (8, "the image is not named"),
        (9, "duplicate of line 2: the same image and report"),
        (11, "the image is that of line 2, with another report"),
        (12, "3 fields where the header has 2; quote fields that hold commas"),
    ]
    assert len(found) == len(expected)
    for message, (line, what) in zip(found, expected, strict=True):
        assert message.startswith(f"line {line}: ")
        assert what in message


def test_a_row_may_have_two_problems(tmp_path):
    rows = read_table(table(tmp_path, "image,report\ngone.png,\n"))
    assert [problem.line for problem in find_problems(rows)] == [2, 2]


def rows_of(*patients, splits=None):
    splits = splits or [""] * len(patients)
    return [
        Row(line, None, "words", patient, split)
        for line, (patient, split) in enumerate(zip(patients, splits, strict=True), 2)
    ]


@given(
    patients=st.lists(st.sampled_from(["", "a", "b", "c", "d"]), min_size=2, max_size=20),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 5),
)
def test_split_keeps_patients_whole_and_loses_no_row(patients, share, seed):
    rows = rows_of(*patients, "e", "f")
    training, held_out = split_rows(rows, share, seed)
    assert training
    assert held_out
    assert sorted([*training, *held_out], key=lambda row: row.line) == rows
    assert not {row.patient for row in training if row.patient} & {row.patient for row in held_out if row.patient}
    assert split_rows(rows, share, seed) == (training, held_out)


def test_split_depends_on_the_seed_and_follows_the_share():
    rows = rows_of(*map(str, range(100)))
    one, other = (split_rows(rows, 0.3, seed)[1] for seed in (0, 1))
    assert len(one) == len(other) == 30
    assert one != other


def test_split_column_decides():
    rows = rows_of("a", "b", "c", "d", splits=["train", "Valid", "test", "training"])
    assert split_rows(rows) == ([rows[0], rows[3]], [rows[1]])
    tested = rows_of("a", "b", splits=["train", "test"])
    assert split_rows(tested) == (tested[:1], tested[1:])


@pytest.mark.parametrize(
    ("patients", "splits", "message"),
    [
        ("ab", ["train", "holdout?"], "line 3: the split is 'holdout\\?'; expected 'train'"),
        ("ab", ["train", ""], "line 3: the split is ''"),
        ("ab", ["train", "train"], "gives 2 rows to train on and 0 to hold out"),
        ("aba", ["train", "val", "test"], "line 4: patient 'a' is in the split 'test', and in 'train' on line 2"),
        ("aa", None, "the rows have 1 patient; expected at least two"),
    ],
)
def test_impossible_splits(patients, splits, message):
    with pytest.raises(ValueError, match=message):
        split_rows(rows_of(*patients, splits=splits))


def test_splits_and_masks_are_checked_if_all_columns_are(tmp_path):
    for number in range(6):
        picture(tmp_path / f"{number}.png", number)
    (tmp_path / "text.png").write_text("no image")
    lines = ["0.png,A.,p,train,1.png", "1.png,B.,q,val,", "2.png,C.,p,test,gone.png", "3.png,D.,r,,text.png"]
    lines += ["4.png,E.,s,holdout,", "5.png,F.,s"]
    rows = read_table(table(tmp_path, "\n".join(["image,report,patient,split,mask", *lines])))
    assert [problem.line for problem in find_problems(rows)] == [7]
    found = [str(problem) for problem in find_problems(rows, all_columns=True)]
    assert found[:2] == [
        f"line 4: the mask {tmp_path / 'gone.png'} does not exist",
        "line 4: patient 'p' is in the split 'test', and in 'train' on line 2; put all rows of a patient in one split",
    ]
    assert found[2].startswith("line 5: the mask is unreadable: ")
    allowed = "expected 'train', 'validation' or 'test' in every row, or no such column"
    assert found[3:5] == [f"line {line}: the split is {word!r}; {allowed}" for line, word in ((5, ""), (6, "holdout"))]
    assert len(found) == 6


@pytest.mark.parametrize("share", [0, 1, -0.1, float("nan")])
def test_impossible_shares(share):
    with pytest.raises(ValueError, match=r"held_out is .*; expected a share of the patients between 0 and 1"):
        split_rows(rows_of("a", "b"), share)


def test_tables_survive_writing(tmp_path):
    rows = [
        Row(2, tmp_path / "a.png", 'Quoted "words", and\na line', "p", "train", "x", tmp_path / "m.png"),
        Row(4, tmp_path / "b.png", "Words."),
    ]
    (tmp_path / "elsewhere").mkdir()
    write_table(tmp_path / "elsewhere" / "copy.csv", rows)
    assert read_table(tmp_path / "elsewhere" / "copy.csv") == rows


@pytest.mark.parametrize(
    "boxes", ["1 2 nan 4", "1 2 inf 4", "-1 2 3 4", "1 -2 3 4", "1 2 0 4", "1 2 3 -4", "1 2 3", "1 2 3 4 5", "a b c d"]
)
def test_boxes_that_are_none_are_bad_rows(tmp_path, boxes):
    (row,) = read_table(table(tmp_path, f'image,report,boxes\na.png,Words.,"0 0 1 1; {boxes}"\n'))
    assert row.fault.startswith(f"boxes holds '{boxes}'; expected 'x y width height', finite")


@pytest.mark.parametrize("name", ["a" * 5000, "b/" * 3000, "a\0b"])
def test_names_that_no_file_can_have_are_bad_rows(tmp_path, name):
    (tmp_path / "a.jsonl").write_text(json.dumps({"image": name, "report": "Words."}))
    (problem,) = find_problems(read_table(tmp_path / "a.jsonl"))
    assert str(problem).startswith("line 1: the image ")
    assert str(problem).endswith(" does not exist")
    assert len(str(problem)) < 400
    assert "\0" not in str(problem)


def test_a_word_for_a_missing_value_is_no_report(tmp_path):
    picture(tmp_path / "a.png", 1)
    rows = read_table(table(tmp_path, "image,report,patient,label\na.png,nan,None,Edema\n<NA>,Words.,p,NaT\n"))
    assert [str(problem) for problem in find_problems(rows)] == [
        "line 2: the report is 'nan', which stands for a missing value",
        "line 3: the image is not named",
    ]
    assert [(row.patient, row.label) for row in rows] == [("", "Edema"), ("p", "")]


def test_warnings_of_a_table(tmp_path):
    rows = read_table(table(tmp_path, "image,report,patient\na,b,\nc,d,p\ne,f,q\n"))
    assert find_warnings(rows) == find_warnings(rows[:2]) == find_warnings(rows[1:2]) == []
    rows = read_table(table(tmp_path, "image,report,patient\na,b,tmp\nc,d,tmp\n"))
    assert find_warnings(rows) == [
        "every row has the patient 'tmp', so that none can be held out; check the column patient"
    ]
    rows = read_table(table(tmp_path, "image,report,patient,split\na,b,nan,NA\nc,d,x,\ne,f,nan,None\n"))
    assert find_warnings(rows) == [
        f"rows whose {column} is '{word}', which is read as a missing value: {count} (first: line {line}); leave "
        "the cells empty"
        for column, word, count, line in [("patient", "nan", 2, 2), ("split", "NA", 1, 2), ("split", "None", 1, 4)]
    ]
