"""`gloria train`: trains on a table or on shards, and writes a run folder."""

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NoReturn

import torch
import typer
from accelerate import PartialState
from transformers import AutoConfig, AutoTokenizer

from gloria.cli.common import BadRows, HeldOut, good_rows, plain_errors, say
from gloria.cli.from_dataclass import takes_fields_of
from gloria.data import Row, ShardDataset, read_table, split_rows
from gloria.data.shards import INDEX
from gloria.images import GloriaImageProcessor
from gloria.messages import counted
from gloria.modeling import GloriaModel
from gloria.objectives import OBJECTIVES, OPTIONS, objective_fields
from gloria.processing import GloriaProcessor
from gloria.recipes import available_recipes, load_recipe
from gloria.retrieval import format_precision
from gloria.small import PIXELS, STRIDE, small_model
from gloria.training import HELD_OUT, METRICS, TrainingOptions, count_rows, last_checkpoint
from gloria.training import train as run_training
from gloria.training.processes import on_first_process, only_run

FROM_SCRATCH = 1e-3  # the learning rate of a preset
RELEASED_PIXELS = 299  # of a side, as in the released code
NOT_OF_A_RECIPE = {"table", "out", "recipe", "resume", "change"}


def _follow_recipe(context: typer.Context, name_or_path: str | None) -> str | None:
    """Make what a recipe sets the defaults of this call, before the other options are read."""
    if name_or_path is not None:
        options = {str(each.name) for each in context.command.params} - NOT_OF_A_RECIPE
        with plain_errors():
            context.default_map = load_recipe(name_or_path, options)
    return name_or_path


@takes_fields_of(TrainingOptions)
def train(
    context: typer.Context,
    options: TrainingOptions,
    table: Annotated[
        Path,
        typer.Argument(metavar="TABLE", help="Table of images and reports, or a folder of `gloria shards`."),
    ],
    out: Annotated[Path, typer.Option(help="Run folder.")],
    recipe: Annotated[
        str | None,
        typer.Option(
            help=f"Options from a file: {', '.join(available_recipes())}, or your own YAML. What is given here wins.",
            is_eager=True,
            callback=_follow_recipe,
        ),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="'small': from scratch, for a CPU, instead of two encoders.")
    ] = None,
    image_encoder: Annotated[
        str | None, typer.Option(help="Hub name or local directory, e.g. microsoft/resnet-50.")
    ] = None,
    text_encoder: Annotated[
        str | None, typer.Option(help="Hub name or local directory, e.g. emilyalsentzer/Bio_ClinicalBERT.")
    ] = None,
    objective: Annotated[
        str, typer.Option(help=f"What is trained, with the same encoders: {', '.join(OBJECTIVES)}.")
    ] = "gloria",
    image_size: Annotated[
        int | None,
        typer.Option(
            min=32,
            help=f"Pixels of a side that the image encoder sees. Default: {RELEASED_PIXELS}, or {PIXELS} of the small "
            "preset.",
        ),
    ] = None,
    held_out: HeldOut = 0.2,
    bad_rows: BadRows = "refuse",
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Give the same command again with this: it goes on from the last whole checkpoint."
        ),
    ] = False,
    change: Annotated[
        list[str] | None,
        typer.Option(help="An option that may differ from the resumed run's, e.g. learning_rate; once for each."),
    ] = None,
) -> None:
    """Train on a table, evaluating on held-out patients; the run folder gets model, metrics and pictures.

    Under torchrun every process trains on a batch of its own, and contrasts it with the batches of all.
    """
    # A termination becomes an exception, so that it leaves a checkpoint, as Ctrl-C does.
    signal.signal(signal.SIGTERM, _raise_terminated)
    with plain_errors():
        # What the command line starts from replaces what the recipe would start from.
        if recipe and _is_given(context, "preset"):
            image_encoder, text_encoder, image_size = (
                context.params[name] if _is_given(context, name) else None
                for name in ("image_encoder", "text_encoder", "image_size")
            )
        elif recipe and (_is_given(context, "image_encoder") or _is_given(context, "text_encoder")):
            preset = None
        _check_encoders(preset, image_encoder, text_encoder)
        if image_size is None:
            image_size = PIXELS if preset else RELEASED_PIXELS
        if preset and image_size % STRIDE:
            raise ValueError(f"--image-size is {image_size}; expected a multiple of {STRIDE} with --preset small")
        if preset and not _is_given(context, "learning_rate", by=("COMMANDLINE", "DEFAULT_MAP")):
            options = replace(options, learning_rate=FROM_SCRATCH)
        fields = objective_fields(objective)
        own = OPTIONS.get(objective, {}).items()
        taken = {name: value for name, value in own if not _is_given(context, name, by=("COMMANDLINE", "DEFAULT_MAP"))}
        options = replace(options, **taken)
        origin = {
            "preset": preset,
            "image_encoder": image_encoder,
            "text_encoder": text_encoder,
            "objective": objective,
            "image_size": str(image_size),
        }
        with only_run(out, options.cpu):  # before the table is read, which may take long
            rows, held = _split_table(table, held_out, options.seed, skip=bad_rows == "skip")
            if resume and (checkpoint := on_first_process(lambda: last_checkpoint(out))):
                model, processor = GloriaModel.from_pretrained(checkpoint), GloriaProcessor.from_pretrained(out)
            elif preset:
                if rows is None:
                    raise ValueError(
                        "--preset small makes its vocabulary of a table's reports; give the table, not shards"
                    )
                model, processor = small_model([row.report for row in rows], options.seed, image_size, **fields)
            else:
                model, processor = _pretrained_model(
                    str(image_encoder), str(text_encoder), image_size, options.seed, fields
                )
            process = PartialState()
            training = _open_shards(table, processor, options) if rows is None else rows
            echo = say if process.is_main_process else lambda _: None
            echo(f"{counted(count_rows(training), 'row')} to train on, {len(held)} held out")
            names = [name.replace("-", "_") for name in change or ()]
            with _report_interruption(out, process.is_main_process):
                metrics = run_training(model, processor, training, held, out, options, resume, origin, names)
        PartialState().destroy_process_group()
    echo(f"Precision@K in percent on {len(held)} held-out rows:\n{format_precision(metrics['precision'])}")
    if metrics["collapsed"]:
        echo(
            "warning: the model has collapsed: its images and reports are nearly one vector, and these figures are not "
            "those of a trained model; raise --all-negatives"
        )
    echo(f"wrote the model, {METRICS}, loss.png and attention.png to {out}")


def _split_table(table: Path, held_out: float, seed: int, skip: bool) -> tuple[list[Row] | None, list[Row]]:
    """Return the rows to train on (None if they are in shards) and the held-out rows, of a table or beside shards."""
    if table.is_dir():
        if not (table / INDEX).is_file():
            raise ValueError(f"{table} is a folder without {INDEX}; expected a table, or finished `gloria shards`")
        return None, read_table(table / HELD_OUT)
    return split_rows(good_rows(table, skip), held_out, seed)


def _open_shards(folder: Path, processor: GloriaProcessor, options: TrainingOptions) -> ShardDataset:
    process = PartialState()
    return ShardDataset(
        folder,
        processor,
        options.text,
        options.group_equal_reports,
        options.bad_files,
        seed=options.seed,
        rank=process.process_index,
        ranks=process.num_processes,
    )


def _is_given(context: typer.Context, name: str, by: Sequence[str] = ("COMMANDLINE",)) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name in by


@contextmanager
def _report_interruption(out: Path, tell: bool) -> Iterator[None]:
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        left = last_checkpoint(out, verify=False)
        if tell:
            kept = f"go on from {left} with --resume" if left else "no step was finished, begin again"
            say(f"gloria: interrupted; {kept}", err=True)
        raise


def _raise_terminated(_signal: int, _frame: object) -> NoReturn:
    raise SystemExit(143)  # as a shell reports a process that SIGTERM ended


def _check_encoders(preset: str | None, image_encoder: str | None, text_encoder: str | None) -> None:
    named = [name for name in (image_encoder, text_encoder) if name]
    if preset not in (None, "small"):
        raise ValueError(f"--preset is {preset!r}; expected 'small'")
    if (preset and named) or (not preset and len(named) != 2):
        raise ValueError("expected either --preset small, or both --image-encoder and --text-encoder")


def _pretrained_model(
    image_encoder: str, text_encoder: str, image_size: int, seed: int, fields: dict[str, Any]
) -> tuple[GloriaModel, GloriaProcessor]:
    torch.manual_seed(seed)
    with _naming("--text-encoder", text_encoder):
        tokenizer = AutoTokenizer.from_pretrained(text_encoder)
    with _naming("--image-encoder", image_encoder):
        AutoConfig.from_pretrained(image_encoder)
    processor = GloriaProcessor(GloriaImageProcessor(crop_size=image_size), tokenizer)
    return GloriaModel.from_image_text_pretrained(image_encoder, text_encoder, **fields), processor


@contextmanager
def _naming(option: str, name: str) -> Iterator[None]:
    """Name the option and its value where an encoder cannot be loaded, which the hub's message does not."""
    try:
        yield
    except (OSError, ValueError) as error:
        here = Path(name).is_dir()
        where = "this folder could not be loaded" if here else "no folder here, and it could not be loaded from the hub"
        raise ValueError(f"{option} is {name!r}: {where}: {str(error).strip().splitlines()[0]}") from error
