"""The commands of data: import, shards, phantoms and validation, from a shell's arguments."""

import json

import pytest
from typer.testing import CliRunner

from gloria.cli import app
from gloria.data import read_table, write_phantoms


def gloria(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("layout", "tree", "rows"),
    [
        ("mimic", "mimic_tree", 3),
        ("chexpert", "chexpert_tree", 19),
        ("openi", "openi_tree", 3),
        ("rsna", "rsna_tree", 2),
        ("siim", "siim_tree", 3),
    ],
)
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_import_writes_a_good_table(request, tmp_path, layout, tree, rows, suffix):
    out = tmp_path / f"table.{suffix}"
    result = gloria("import", layout, request.getfixturevalue(tree), "--out", out)
    assert result.exit_code == 0, result.output
    assert f"wrote {out}: {rows} rows" in result.output
    assert len(read_table(out)) == rows
    bare = layout in ("chexpert", "rsna", "siim")
    assert f"{rows} rows, {rows if bare else 0} of them without a report" in result.output
    checked = gloria("validate-data", out, *(["--without-reports"] if bare else []))
    assert (checked.exit_code, checked.output) == (0, f"{rows} rows, {rows} good, 0 bad\n")
    if bare:
        assert gloria("validate-data", out).exit_code == 1


def test_import_tells_what_it_left_out(mimic_tree, tmp_path):
    result = gloria("import", "mimic", mimic_tree, "--out", tmp_path / "a.jsonl", "--section", "findings")
    assert "left out 1: not a frontal view (first: 174413ec-4ec4c1f7)" in result.stderr
    assert "left out 1: no findings in the report (first: s53911762)" in result.stderr


def test_import_draws_a_five_by_set(chexpert_tree, tmp_path):
    out, five = tmp_path / "rest.csv", tmp_path / "five.csv"
    result = gloria("import", "chexpert", chexpert_tree, "--out", out, "--five", five, "--of-each", 1, "--seed", 3)
    assert result.exit_code == 0, result.output
    chosen, rest = read_table(five), read_table(out)
    assert len(chosen) == 5
    assert not {row.patient for row in chosen} & {row.patient for row in rest}
    assert len(rest) == 14


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rsna", "--section", "findings"], "--section means nothing for rsna; it is for mimic, chexpert, openi"),
        (["openi", "--five", "a.csv"], "--five means nothing for openi; it is for chexpert"),
        (["chexpert"], "holds none of train.csv"),
        (["mimic"], "holds no folder files; unpack mimic-cxr-reports.zip"),
        (["rsna"], "holds no stage_2_train_labels.csv"),
        (["siim"], "holds no train-rle.csv"),
        (["rsna", "--masks", "m"], "--masks means nothing for rsna; it is for siim"),
        (["openi"], "holds no ecgen-radiology/*.xml"),
    ],
)
def test_impossible_imports_end_in_a_line(tmp_path, arguments, message):
    result = gloria("import", arguments[0], tmp_path, "--out", tmp_path / "a.csv", *arguments[1:])
    assert result.exit_code == 2
    assert result.output.splitlines()[-1].startswith("gloria: ")
    assert message in result.output


def test_shards_hold_the_training_rows_and_a_table_the_others(tmp_path):
    table = write_phantoms(tmp_path / "phantoms", 20, size=32)
    with table.open("a") as file:
        file.write("gone.png,Words.,p,x,x,0,,\n")
    refused = gloria("shards", table, "--out", tmp_path / "out", "--shards", 2)
    assert refused.exit_code == 2
    assert "line 22: the image" in refused.output
    arguments = [
        "--out",
        tmp_path / "out",
        "--shards",
        3,
        "--held-out",
        0.25,
        "--bad-rows",
        "skip",
        "--longest-side",
        16,
    ]
    result = gloria("shards", table, *arguments)
    assert result.exit_code == 0, result.output
    assert f"wrote 15 rows to 3 shards in {tmp_path / 'out'}, and 5 to" in result.output
    assert json.loads((tmp_path / "out" / "shards.json").read_text()) == dict.fromkeys(
        ["000000.tar", "000001.tar", "000002.tar"], 5
    )
    assert len(read_table(tmp_path / "out" / "held_out.csv")) == 5
    again = gloria("shards", table, *arguments)
    assert again.exit_code == 2
    assert "already holds shards" in again.output


def test_phantoms_with_second_findings_and_the_fixed_set(tmp_path, monkeypatch):
    result = gloria("phantoms", tmp_path / "a", "-n", 20, "--size", 32, "--second", 1)
    assert result.exit_code == 0, result.output
    assert sum(" and " in row.label for row in read_table(tmp_path / "a" / "phantoms.csv")) == 18
    asked = []
    monkeypatch.setattr("gloria.cli.tables.write_five_by_200", lambda *given, **named: asked.append((given, named)))
    assert gloria("phantoms", tmp_path / "b", "--set", "5x200", "--seed", 2).exit_code == 0
    assert asked == [((tmp_path / "b", 2, 256), {"progress": True})]
    refused = gloria("phantoms", tmp_path / "b", "--set", "5x200", "-n", 3)
    assert refused.exit_code == 2
    assert "--set 5x200 has its own number of phantoms" in refused.output


@pytest.mark.parametrize("more", [[], ["--set", "5x200"]])
def test_phantoms_are_not_written_over(tmp_path, more):
    (tmp_path / "phantoms.csv").touch()
    result = gloria("phantoms", tmp_path, *more)
    assert result.exit_code == 2
    assert result.output == f"gloria: {tmp_path} already holds phantoms.csv; name another folder\n"


def test_a_root_that_is_not_there_is_named(tmp_path):
    for option, given in (("ROOT", [tmp_path / "nope"]), ("--reports", [tmp_path, "--reports", tmp_path / "nope"])):
        result = gloria("import", "mimic", *given, "--out", tmp_path / "a.csv")
        assert result.exit_code == 2
        assert f"gloria: {option} is {tmp_path / 'nope'}, and there is no such folder" in result.output


def test_validation_warns_of_the_whole_table(tmp_path, picture_file):
    for number in range(2):
        picture_file(tmp_path / f"{number}.png", number)
    (tmp_path / "a.csv").write_text("image,report,patient,split\n0.png,Words.,tmp,nan\n1.png,Words.,tmp,\n")
    result = gloria("validate-data", tmp_path / "a.csv")
    assert result.exit_code == 0, result.output
    everyone, missing, count = result.output.splitlines()
    assert everyone.startswith(
        f"{tmp_path / 'a.csv'}: warning: every row has the patient 'tmp', so that none can be held"
    )
    assert missing.endswith("read as a missing value: 1 (first: line 2); leave the cells empty")
    assert count == "2 rows, 2 good, 0 bad"
    refused = gloria("shards", tmp_path / "a.csv", "--out", tmp_path / "out")
    assert refused.exit_code == 2
    assert "a.csv: warning: every row has the patient 'tmp'" in refused.stderr


@pytest.mark.parametrize("layout", ["mimic", "chexpert", "openi", "rsna", "siim"])
def test_an_import_without_a_row_is_an_error(request, tmp_path, layout):
    root = request.getfixturevalue(f"{layout}_tree")
    for pattern in ("*.jpg", "*.png", "*.dcm"):
        for image in root.rglob(pattern):
            image.unlink()
    result = gloria("import", layout, root, "--out", tmp_path / "a.csv")
    assert result.exit_code == 2, result.output
    assert "the image is not there (first: " in result.output
    assert result.output.splitlines()[-1].startswith(f"gloria: nothing in {root} became a row")
    assert not (tmp_path / "a.csv").exists()


def test_a_five_by_set_that_leaves_no_patient_is_an_error(chexpert_tree, tmp_path):
    for name in ("train.csv", "valid.csv"):
        header, *lines = (chexpert_tree / name).read_text().splitlines(keepends=True)
        (chexpert_tree / name).write_text(header + "".join(lines[:5] if name == "train.csv" else []))
    out, five = tmp_path / "rest.csv", tmp_path / "five.csv"
    result = gloria("import", "chexpert", chexpert_tree, "--out", out, "--five", five, "--of-each", 1)
    assert result.exit_code == 2, result.output
    assert "--five takes images of all 5 patients, which leaves no row for" in result.output
    assert not out.exists()
    assert not five.exists()
