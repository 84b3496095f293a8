"""Shared by the commands: arguments, plain errors, the good rows of a table, a trained model."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer
from transformers.utils import logging as transformers_logging

from gloria.data import Problem, Row, find_problems, find_warnings, read_table
from gloria.data.table import REQUIRED, is_there
from gloria.folders import check_folder
from gloria.messages import counted, plain, plain_lines
from gloria.modeling import GloriaModel
from gloria.processing import GloriaProcessor
from gloria.retrieval import By

Table = Annotated[
    Path, typer.Argument(metavar="TABLE", help="CSV, TSV, JSON lines or Parquet with the columns image and report.")
]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder of `gloria train` or `gloria convert`.")]
OutFolder = Annotated[Path, typer.Option(help="Folder to write to.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images or texts encoded at once.")]
Query = Annotated[str | None, typer.Option(help="Text to find images for.")]
QueryImage = Annotated[Path | None, typer.Option(help="Image to find reports for.")]
Most = Annotated[int, typer.Option("--k", "-k", min=1, help="How many to show.")]
RankBy = Annotated[By, typer.Option(help="What to rank by.")]
HeldOut = Annotated[float, typer.Option(help="Share of the patients to hold out, without a split column.")]
BadRows = Annotated[Literal["refuse", "skip"], typer.Option(help="What to do if there are bad rows.")]


def say(message: str, err: bool = False) -> None:
    """Print a message. All messages go through here, since they quote files, which must not control the terminal."""
    typer.echo(plain_lines(message), err=err)


def say_hits(hits: Iterable[tuple[float, Row]]) -> None:
    """Print the scores and rows of a search, best first."""
    for rank, (score, row) in enumerate(hits, 1):
        say(f"{rank:>3}  {score:8.4f}  {row.image}  {row.label or '-'}  {' '.join(row.report.split())}")


def format_warning(message: Warning | str, category: type[Warning], *_place: object, **_line: object) -> str:
    """Make one safe line of a warning, which may quote a file; warnings of other libraries too."""
    return plain(f"gloria: warning: {message}") + "\n"


@contextmanager
def plain_errors() -> Iterator[None]:
    """End wrong input with one line and exit code 2; any other error is a bug and keeps its traceback."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    except (ValueError, TypeError, OSError, NotImplementedError, ImportError) as error:
        say(f"gloria: {error}", err=True)
        raise typer.Exit(2) from error


def good_rows(table: Path, skip: bool, reports: bool = True) -> list[Row]:
    """Return the good rows of a table, print problems, and refuse bad rows unless `skip`.

    Without `reports`, rows need no report, and the table needs no such column.
    """
    rows = read_table(table, REQUIRED if reports else ["image"])
    for warning in find_warnings(rows):
        say(f"{table}: warning: {warning}", err=True)
    problems: Sequence[Problem] = find_problems(rows, progress=True, need_reports=reports)
    for problem in problems:
        say(f"{table}, {problem}", err=True)
    bad = {problem.line for problem in problems if problem.bad}
    if bad and not skip:
        raise ValueError(f"{len(bad)} of {len(rows)} rows are bad; fix them, or leave them out with --bad-rows skip")
    good = [row for row in rows if row.line not in bad]
    if not good:
        raise ValueError(f"{table} has no good row")
    if bad:
        say(f"skipping {counted(len(bad), 'bad row')} of {len(rows)}", err=True)
    return good


def refuse_overwriting(out: Path, *read: Path | None) -> None:
    """Raise ValueError if `--out` is one of the files that a command reads, under any name."""
    for file in read:
        if file is not None and is_there(file) and is_there(out) and out.samefile(file):
            raise ValueError(f"--out is {out}, a file that is read; name another file")


def load_run(run: Path, cpu: bool) -> tuple[GloriaModel, GloriaProcessor]:
    """Return the model of a run folder and its processor; the model is on the accelerator, if any, unless `cpu`."""
    check_folder(run)
    accelerator = None if cpu else torch.accelerator.current_accelerator(check_available=True)
    model = GloriaModel.from_pretrained(run)
    model.to(device=accelerator or torch.device("cpu"))  # type: ignore[call-arg]
    return model, GloriaProcessor.from_pretrained(run)
