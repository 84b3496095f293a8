"""`gloria finetune classify` and `gloria finetune segment`: what a run's image encoder is worth with few labels."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from gloria.cli.common import BadRows, HeldOut, OutFolder, Run, good_rows, plain_errors, say
from gloria.cli.from_dataclass import takes_fields_of
from gloria.data import split_rows
from gloria.finetuning import FinetuningOptions, finetune_classifier, finetune_segmenter
from gloria.lock import only_writer
from gloria.training import METRICS

Fraction = Annotated[float, typer.Option(help="Fraction of the training rows whose labels are used, up to 1.")]
Frozen = Annotated[bool, typer.Option(help="Keep the encoder as it is, running statistics included.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the rows that are drawn, the new weights and the order.")]
RandomStart = Annotated[
    bool, typer.Option("--random-start", help="Give the encoder new weights, as a baseline of the run's.")
]

app = typer.Typer(help="Fine-tune a run's image encoder on labels or masks, and measure it.", no_args_is_help=True)


@app.command()
@takes_fields_of(FinetuningOptions)
def classify(
    options: FinetuningOptions,
    run: Run,
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="Table with the columns image and labels, or label.")],
    out: OutFolder,
    labels: Fraction = 1.0,
    frozen: Frozen = True,
    seed: Seed = 0,
    held_out: HeldOut = 0.2,
    random_start: RandomStart = False,
    bad_rows: BadRows = "refuse",
) -> None:
    """Train a classifier on a table's labels, and print its AUROC on held-out patients.

    Of a frozen encoder it is a linear probe, as released: a logistic regression on the image vectors, which is fitted
    to its optimum, so that the options of steps do not matter.
    """
    given = {"labels": labels, "frozen": frozen, "random_start": random_start}
    metrics = _finetuned(finetune_classifier, run, table, out, held_out, seed, bad_rows, options=options, **given)
    areas = metrics["auroc"]
    with_names = {**areas["classes"], f"mean over {len(areas['macro_of'])} classes": areas["macro"]}
    width = max(map(len, with_names))
    say("AUROC in percent (none where the held-out rows are all of one kind):")
    for name, area in with_names.items():
        say(f"{name:<{width}}{'none' if area is None else f'{100 * area:.1f}':>8}")
    say(f"wrote the model and {METRICS} to {out}")


@app.command()
@takes_fields_of(FinetuningOptions)
def segment(
    options: FinetuningOptions,
    run: Run,
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="Table with the columns image and mask.")],
    out: OutFolder,
    finding: Annotated[str, typer.Option(help="Name of what the masks show.")] = "finding",
    labels: Fraction = 1.0,
    frozen: Frozen = False,
    seed: Seed = 0,
    held_out: HeldOut = 0.2,
    random_start: RandomStart = False,
    bad_rows: BadRows = "refuse",
) -> None:
    """Train a segmenter on a table's masks, and print its Dice on held-out patients.

    Black masks say that the finding is absent; rows without a mask are left out.
    """
    given = {"finding": finding, "labels": labels, "frozen": frozen, "random_start": random_start}
    metrics = _finetuned(finetune_segmenter, run, table, out, held_out, seed, bad_rows, options=options, **given)
    dice = metrics["dice"]
    say(f"in percent, on {dice['images']} held-out images, {dice['positives']} of them with the finding:")
    say(f"{'':<34}{'the model':>10}{'nothing anywhere':>18}")
    for name in ("dice_of_positives", "empties_right", "released_mixture"):
        found, trivial = (
            "none" if value is None else f"{100 * value:.1f}" for value in (dice[name], dice["nothing_anywhere"][name])
        )
        say(f"{name.replace('_', ' '):<34}{found:>10}{trivial:>18}")
    say(f"wrote the model and {METRICS} to {out}")


def _finetuned(
    finetune: Callable[..., dict[str, Any]],
    run: Path,
    table: Path,
    out: Path,
    held_out: float,
    seed: int,
    bad_rows: str,
    **given: Any,
) -> dict[str, Any]:
    with plain_errors(), only_writer(out):
        rows = good_rows(table, skip=bad_rows == "skip", reports=False)
        training, held = split_rows(rows, held_out, seed)
        metrics = finetune(run, training, held, seed=seed, out=out, **given)
    say(f"trained on {metrics['training_rows']} of {len(training)} rows, measured on {metrics['held_out_rows']}")
    return metrics
