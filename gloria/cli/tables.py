"""`gloria validate-data` and `gloria phantoms`: check tables, and draw data."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from gloria.cli.common import Table, plain_errors, say
from gloria.data import find_problems, find_warnings, read_table, write_five_by_200, write_phantoms
from gloria.messages import counted


def validate_data(
    table: Table,
    without_reports: Annotated[
        bool, typer.Option("--without-reports", help="Rows need no report: for tables of labels.")
    ] = False,
) -> None:
    """Name every bad row of a table with its line, and warn of what is odd; exit with 1 if there is a bad row."""
    with plain_errors():
        rows = read_table(table)
        problems = find_problems(rows, progress=True, need_reports=not without_reports, all_columns=True)
    for warning in find_warnings(rows):
        say(f"{table}: warning: {warning}")
    for problem in problems:
        say(f"{table}, {problem}")
    bad = len({problem.line for problem in problems if problem.bad})
    say(f"{counted(len(rows), 'row')}, {len(rows) - bad} good, {bad} bad")
    raise typer.Exit(1 if bad else 0)


def phantoms(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write to.")],
    count: Annotated[int | None, typer.Option("--count", "-n", min=1, help="Number of phantoms. Default: 500.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, other phantoms.")] = 0,
    size: Annotated[int, typer.Option(min=32, help="Pixels of a side.")] = 256,
    second: Annotated[float, typer.Option(min=0, max=1, help="Share of phantoms with a second finding.")] = 0.0,
    set_: Annotated[
        Literal["5x200"] | None,
        typer.Option("--set", help="The fixed test set: 200 of each of five classes, with one finding each."),
    ] = None,
) -> None:
    """Draw chest phantoms with findings, masks and reports, and a table of them."""
    with plain_errors():
        if set_ and (count or second):
            raise ValueError(
                "--set 5x200 has its own number of phantoms, with one finding each; leave --count and --second out"
            )
        if (out / "phantoms.csv").exists():
            raise ValueError(f"{out} already holds phantoms.csv; name another folder")
        if set_:
            table = write_five_by_200(out, seed, size, progress=True)
        else:
            table = write_phantoms(out, 500 if count is None else count, seed, size, second, progress=True)
        say(f"wrote {table}")
