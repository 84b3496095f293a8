"""`gloria reproduce`: the tables of the talk."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from gloria.cli.common import OutFolder, plain_errors, say
from gloria.reproduce import FULL, QUICK, SUITES
from gloria.reproduce import reproduce as fill


def reproduce(
    out: OutFolder,
    suite: Annotated[str, typer.Option(metavar=f"[{'|'.join(SUITES)}]", help="Of which data.")] = "phantom",
    data: Annotated[
        Path | None, typer.Option(help="Folder that the data set was unpacked to; phantoms are drawn.")
    ] = None,
    runs: Annotated[Path | None, typer.Option(help="rsna, siim: OUT of a suite whose systems are pre-trained.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="One seed, 112 pixels, 400 steps: a quarter of an hour on two cores.")
    ] = False,
    seeds: Annotated[int | None, typer.Option(min=1, help="Runs of each system. Default: 4; quick: 1.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes of one thread each; 1 is this one, as it is.")] = 2,
) -> None:
    """Fill the four tables of the GLoRIA talk; the same command goes on where an earlier one ended."""
    budget = QUICK if quick else FULL
    with plain_errors():
        page = fill(suite, data, out, replace(budget, seeds=seeds or budget.seeds), jobs, runs, say)
    say(f"wrote {page}, index.html and a picture for each table")
