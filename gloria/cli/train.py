"""`gloria train`."""

import signal
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import torch
import typer
from transformers import AutoTokenizer

from gloria.cli.common import Table, good_rows, plain_errors
from gloria.data import split_rows
from gloria.images import GloriaImageProcessor
from gloria.modelling import GloriaModel
from gloria.processing import GloriaProcessor
from gloria.retrieval import format_precision
from gloria.small import small_model
from gloria.training import METRICS, TrainingOptions, last_checkpoint
from gloria.training import train as run_training

BadRows = Literal["refuse", "skip"]


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
    with plain_errors():
        _check_encoders(preset, image_encoder, text_encoder)
        rows = good_rows(csv, skip=bad_rows == "skip")
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


def _terminated(_signal: int, _frame: object) -> NoReturn:
    raise SystemExit(143)  # as a shell reports a process that SIGTERM ended


def _check_encoders(preset: str | None, image_encoder: str | None, text_encoder: str | None) -> None:
    named = [name for name in (image_encoder, text_encoder) if name]
    if preset not in (None, "small"):
        raise ValueError(f"--preset is {preset!r}; expected 'small'")
    if (preset and named) or (not preset and len(named) != 2):
        raise ValueError("expected either --preset small, or both --image-encoder and --text-encoder")


def _pretrained(
    image_encoder: str, text_encoder: str, image_size: int, seed: int
) -> tuple[GloriaModel, GloriaProcessor]:
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(text_encoder)
    processor = GloriaProcessor(GloriaImageProcessor(crop_size=image_size), tokenizer)
    return GloriaModel.from_image_text_pretrained(image_encoder, text_encoder), processor
