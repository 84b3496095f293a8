"""The command `gloria`: train, retrieve, validate-data and phantoms, over a CSV of images and reports."""

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import torch
import typer
from transformers import AutoTokenizer
from transformers.utils import logging as transformers_logging

from gloria.data import Problem, Row, find_problems, read_table, split_rows, write_phantoms
from gloria.images import GloriaImageProcessor
from gloria.modelling import GloriaModel
from gloria.processing import GloriaProcessor
from gloria.retrieval import By, format_precision, precision_table, similarities
from gloria.small import small_model
from gloria.training import METRICS, TrainingOptions, last_checkpoint
from gloria.training import train as run_training

app = typer.Typer(
    help="GLoRIA: global and local representations of chest X-rays and their reports.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    rich_markup_mode=None,
)

Table = Annotated[Path, typer.Argument(metavar="CSV", help="Table with the columns image and report.")]
BadRows = Literal["refuse", "skip"]


@app.command("validate-data")
def validate_data(csv: Table) -> None:
    """Name every bad row of a table with its line; exit with 1 if there is any."""
    with _plain_errors():
        rows = read_table(csv)
        problems = find_problems(rows, progress=True)
    for problem in problems:
        typer.echo(f"{csv}, {problem}")
    bad = len({problem.line for problem in problems})
    typer.echo(f"{len(rows)} rows, {len(rows) - bad} good, {bad} bad")
    raise typer.Exit(1 if problems else 0)


@app.command()
def phantoms(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write to.")],
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Number of phantoms.")] = 500,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, other phantoms.")] = 0,
    size: Annotated[int, typer.Option(min=32, help="Pixels of a side.")] = 256,
) -> None:
    """Draw chest phantoms with findings, masks and reports, and a table of them."""
    with _plain_errors():
        typer.echo(f"wrote {write_phantoms(out, count, seed, size, progress=True)}")


@app.command()
def train(
    csv: Table,
    out: Annotated[Path, typer.Option(help="Run folder.")],
    preset: Annotated[
        str | None, typer.Option(help="'small': from scratch, for a CPU, instead of two encoders.")
    ] = None,
    image_encoder: Annotated[
        str | None, typer.Option(help="Hub name or local directory, e.g. microsoft/resnet-50.")
    ] = None,
    text_encoder: Annotated[
        str | None, typer.Option(help="Hub name or local directory, e.g. emilyalsentzer/Bio_ClinicalBERT.")
    ] = None,
    image_size: Annotated[int, typer.Option(min=32, help="Pixels of a side that the image encoder sees.")] = 299,
    epochs: Annotated[int, typer.Option(min=1)] = 10,
    batch_size: Annotated[int, typer.Option(min=2)] = 48,
    learning_rate: Annotated[
        float | None, typer.Option(help="Peak. Default: 5e-5 (released), 1e-3 from scratch.")
    ] = None,
    held_out: Annotated[
        float, typer.Option(help="Share of the patients to evaluate on, without a split column.")
    ] = 0.2,
    seed: Annotated[int, typer.Option(min=0, help="Of the split, the order and new weights.")] = 0,
    bad_rows: Annotated[BadRows, typer.Option(help="What to do if there are bad rows.")] = "refuse",
    group_equal_reports: Annotated[bool, typer.Option(help="Equal reports are not negatives of one another.")] = True,
    workers: Annotated[int, typer.Option(min=0, help="Processes that read images.")] = 0,
    bf16: Annotated[bool, typer.Option(help="Encoders under bfloat16 autocast.")] = False,
    cpu: Annotated[bool, typer.Option(help="Use no accelerator.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in OUT from its last checkpoint.")] = False,
) -> None:
    """Train on a table, evaluating on held-out patients; the run folder gets model, metrics and pictures."""
    # A termination becomes an exception, so that it leaves a checkpoint, as Ctrl-C does.
    signal.signal(signal.SIGTERM, _terminated)
    with _plain_errors():
        _check_encoders(preset, image_encoder, text_encoder)
        rows = _good_rows(csv, skip=bad_rows == "skip")
        training, held = split_rows(rows, held_out, seed)
        typer.echo(f"{len(training)} rows to train on, {len(held)} held out")
        options = TrainingOptions(
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate or (1e-3 if preset else 5e-5),
            group_equal_reports=group_equal_reports,
            workers=workers,
            seed=seed,
            bf16=bf16,
            cpu=cpu,
        )
        if resume and (checkpoint := last_checkpoint(out)):
            model, processor = GloriaModel.from_pretrained(checkpoint), GloriaProcessor.from_pretrained(out)
        elif preset:
            model, processor = small_model([row.report for row in training], seed)
        else:
            model, processor = _pretrained(str(image_encoder), str(text_encoder), image_size, seed)
        metrics = run_training(model, processor, training, held, out, options, resume)
    typer.echo(f"Precision@K in percent on {len(held)} held-out rows:\n{format_precision(metrics['precision'])}")
    typer.echo(f"wrote the model, {METRICS}, loss.png and attention.png to {out}")


@app.command()
def retrieve(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder of `gloria train`.")],
    csv: Table,
    query: Annotated[str | None, typer.Option(help="Text to find images for.")] = None,
    image: Annotated[Path | None, typer.Option(help="Image to find reports for.")] = None,
    k: Annotated[int, typer.Option("--k", "-k", min=1, help="How many to show.")] = 5,
    by: Annotated[By, typer.Option(help="What to rank by.")] = "both",
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    cpu: Annotated[bool, typer.Option(help="Use no accelerator.")] = False,
) -> None:
    """Find images of a table for a text, or reports for an image; with neither, measure Precision@K on the table."""
    with _plain_errors():
        if query is not None and image is not None:
            raise ValueError("--query and --image are both given; choose one, or neither to measure Precision@K")
        if query is not None and not query.strip():
            raise ValueError("--query is empty; expected some words")
        rows = _good_rows(csv, skip=True)
        model, processor = _loaded(run, cpu)
        images = [row.image for row in rows] if image is None else [image]
        reports = [row.report for row in rows] if query is None else [query]
        found = similarities(model, processor, images, reports, batch_size, progress=True)
        if query is None and image is None:
            typer.echo(f"Precision@K in percent on {len(rows)} rows:")
            typer.echo(format_precision(precision_table(found, rows, sorted({1, 5, 10, k}))))
            return
        best = found.by(by).flatten().topk(min(k, len(rows)))
    for rank, (score, index) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True), 1):
        row = rows[index]
        typer.echo(f"{rank:>3}  {score:8.4f}  {row.image}  {row.label or '-'}  {row.report}")


def main() -> None:
    """Entry point of the console script."""
    app()


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Mistakes in what was given end in one line and exit code 2; anything else is a fault and keeps its traceback."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    except (ValueError, TypeError, OSError, NotImplementedError) as error:
        typer.echo(f"gloria: {error}", err=True)
        raise typer.Exit(2) from error


def _terminated(_signal: int, _frame: object) -> NoReturn:
    raise SystemExit(143)  # as a shell reports a process that SIGTERM ended


def _check_encoders(preset: str | None, image_encoder: str | None, text_encoder: str | None) -> None:
    named = [name for name in (image_encoder, text_encoder) if name]
    if preset not in (None, "small"):
        raise ValueError(f"--preset is {preset!r}; expected 'small'")
    if (preset and named) or (not preset and len(named) != 2):
        raise ValueError("expected either --preset small, or both --image-encoder and --text-encoder")


def _good_rows(csv: Path, skip: bool) -> list[Row]:
    """Rows without problems; problems are printed, and are an error unless they are to be skipped."""
    rows = read_table(csv)
    problems: Sequence[Problem] = find_problems(rows, progress=True)
    for problem in problems:
        typer.echo(f"{csv}, {problem}", err=True)
    bad = {problem.line for problem in problems}
    if bad and not skip:
        raise ValueError(f"{len(bad)} of {len(rows)} rows are bad; mend them, or leave them out with --bad-rows skip")
    good = [row for row in rows if row.line not in bad]
    if not good:
        raise ValueError(f"{csv} has no good row")
    if bad:
        typer.echo(f"skipping {len(bad)} bad rows of {len(rows)}", err=True)
    return good


def _pretrained(
    image_encoder: str, text_encoder: str, image_size: int, seed: int
) -> tuple[GloriaModel, GloriaProcessor]:
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(text_encoder)
    processor = GloriaProcessor(GloriaImageProcessor(crop_size=image_size), tokenizer)
    return GloriaModel.from_image_text_pretrained(image_encoder, text_encoder), processor


def _loaded(run: Path, cpu: bool) -> tuple[GloriaModel, GloriaProcessor]:
    if not (run / "config.json").is_file():
        raise ValueError(f"{run} holds no trained model; expected the run folder that `gloria train` wrote")
    accelerator = None if cpu else torch.accelerator.current_accelerator(check_available=True)
    model = GloriaModel.from_pretrained(run)
    model.to(device=accelerator or torch.device("cpu"))  # type: ignore[call-arg]
    return model, GloriaProcessor.from_pretrained(run)
