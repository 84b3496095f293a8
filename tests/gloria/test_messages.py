"""Messages: what a file holds neither steers the terminal nor fills it, whichever command quotes it."""

import csv
import json
import warnings
from pathlib import Path

import pytest
from typer.testing import CliRunner

import gloria.cli.command
from gloria.cli import app
from gloria.cli.common import plain_errors, say
from gloria.data import Row, TableDataset
from gloria.messages import LINE, MESSAGE, counted, plain, plain_lines, shown


def test_one_thing_is_no_plural():
    assert [counted(number, "bad row") for number in (0, 1, 2)] == ["0 bad rows", "1 bad row", "2 bad rows"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Épanchement pleural, 胸水", "Épanchement pleural, 胸水"),
        ("\x1b[31mred\x1b]0;title\x07", "\\x1b[31mred\\x1b]0;title\\x07"),
        ("a\r\nb\tc\x9b", "a\\r\\nb\\tc\\x9b"),
        ("a\u202eb\u2028c", "a\\u202eb\\u2028c"),
        ("\ud800", "\\ud800"),
        ("x" * (LINE + 1234), "x" * LINE + " … (1,234 more characters)"),
    ],
)
def test_a_line_steers_no_terminal(text, expected):
    assert plain(text) == expected
    plain(text).encode()


def test_lines_of_ours_stay_lines():
    assert plain_lines("missing:\n  a\x1b\n  b") == "missing:\n  a\\x1b\n  b"
    long = plain_lines("a\n" * MESSAGE)
    assert long.endswith(f" … ({MESSAGE:,} more characters)")
    assert len(long) < MESSAGE + 100


def test_values_are_shown_shortened():
    assert shown("left lung") == "'left lung'"
    assert len(shown("x" * 10**6)) == len(shown(b"x" * 10**6)) == 200
    bomb = ["lung"]
    for _ in range(60):
        bomb = [bomb, bomb]
    own = []
    own.append(own)
    assert len(shown(bomb)) < 200
    assert len(shown([own] * 10**5)) < 2000


def test_commands_print_through_one_place(capsys):
    say("one\x1b[2J\ntwo", err=True)
    assert capsys.readouterr().err == "one\\x1b[2J\ntwo\n"
    with pytest.raises(BaseException, match="2"), plain_errors():  # typer.Exit
        raise ValueError("\x1b[2J" + "x" * 10**6)
    told = capsys.readouterr().err
    assert told.startswith("gloria: \\x1b[2Jxxx")
    assert len(told) < LINE + 100


def test_warnings_of_any_library_are_lines_of_the_command(monkeypatch):
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    monkeypatch.setattr(gloria.cli.command, "app", lambda: None)
    gloria.cli.main()
    told = warnings.formatwarning(UserWarning("tag \x1b[2J\nred"), UserWarning, "reader.py", 3, line="warn(tag)")
    assert told == "gloria: warning: tag \\x1b[2J\\nred\n"


def test_no_command_prints_past_it():
    """What a command prints by another way than `say` could quote a file as it is."""
    for module in sorted(Path(gloria.cli.__file__).parent.glob("*.py")):
        if module.name != "common.py":
            assert "typer.echo" not in module.read_text(), module.name


NASTY = "\x1b[2J\x1b]0;owned\x07" + "y" * 10**5


@pytest.mark.parametrize("column", ["image", "labels", "boxes", "patient", "report", "mask"])
@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_validation_quotes_no_file_as_it_is(tmp_path, column, suffix):
    record = {"image": "a.png", "report": "Words.", column: NASTY}
    path = tmp_path / f"a.{suffix}"
    if suffix == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, record)
            writer.writeheader()
            writer.writerows([record, record])
    else:
        path.write_text(json.dumps(record) + "\n" + json.dumps(record) + "\n")
    result = CliRunner().invoke(app, ["validate-data", str(path)])
    assert result.exit_code == 1, result.output
    assert "\x1b" not in result.output
    assert len(result.output) < 20_000


def test_unusable_files_are_quoted_shortened(tmp_path):
    (tmp_path / "a.csv").write_text(f'image,"{NASTY}"\n')
    (tmp_path / "train.csv").write_text(
        f'Path,Frontal/Lateral,Atelectasis,Cardiomegaly,Consolidation,Edema,Pleural Effusion\n"{NASTY}",,,,,,\n'
    )
    imports = ["import", "chexpert", tmp_path, "--out", tmp_path / "out.csv"]
    for arguments in (["validate-data", tmp_path / "a.csv"], imports):
        result = CliRunner().invoke(app, list(map(str, arguments)))
        assert result.exit_code == 2, result.output
        assert "\x1b" not in result.output
        assert len(result.output.splitlines()) == 1
        assert len(result.output) < 3_000


def test_warnings_of_training_quote_no_file_as_it_is(tmp_path, processor, picture_file):
    picture_file(tmp_path / "a.png", 0)
    rows = [Row(2, tmp_path / "\x1b[2Jgone.png", "Words."), Row(3, tmp_path / "a.png", "Words.")]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        TableDataset(rows, processor)[0]
    assert "\\x1b[2Jgone.png" in str(caught[0].message)
    assert "\x1b" not in str(caught[0].message)
