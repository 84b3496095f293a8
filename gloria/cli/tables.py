"""`gloria validate-data` and `gloria phantoms`: what one trains on."""

from pathlib import Path
from typing import Annotated

import typer

from gloria.cli.common import Table, plain_errors
from gloria.data import find_problems, read_table, write_phantoms


def validate_data(csv: Table) -> None:
    """Name every bad row of a table with its line; exit with 1 if there is any."""
    with plain_errors():
        rows = read_table(csv)
        problems = find_problems(rows, progress=True)
    for problem in problems:
        typer.echo(f"{csv}, {problem}")
    bad = len({problem.line for problem in problems})
    typer.echo(f"{len(rows)} rows, {len(rows) - bad} good, {bad} bad")
    raise typer.Exit(1 if problems else 0)


def phantoms(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write to.")],
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Number of phantoms.")] = 500,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, other phantoms.")] = 0,
    size: Annotated[int, typer.Option(min=32, help="Pixels of a side.")] = 256,
) -> None:
    """Draw chest phantoms with findings, masks and reports, and a table of them."""
    with plain_errors():
        typer.echo(f"wrote {write_phantoms(out, count, seed, size, progress=True)}")
