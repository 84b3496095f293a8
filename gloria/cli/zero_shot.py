"""`gloria classify`: classifies the images of a table by classes given in words."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from gloria.cli.common import BatchSize, Run, good_rows, load_run, plain_errors, refuse_overwriting, say
from gloria.data import Row, read_table
from gloria.data.formats import is_table
from gloria.prompts import COMPETITION, PER_CLASS, Prompts, generated_prompts, named_prompts, read_prompts
from gloria.prompts import sampled_prompts as prompts_of_rows
from gloria.training.options import Cpu
from gloria.zero_shot import (
    Calibration,
    Ensemble,
    Form,
    ZeroShotClassifier,
    classification_table,
    format_classification,
)


def classify(
    run: Run,
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="Table with the column image, and label if any.")],
    out: Annotated[Path, typer.Option(help="CSV to write: image, label, predicted class, score of each class.")],
    prompts: Annotated[
        str,
        typer.Option(
            help="'name': class names; 'generated': phrases of the package's vocabulary; a YAML file of prompts; or a "
            "table of labeled reports, of other images, to draw from."
        ),
    ] = "generated",
    classes: Annotated[
        list[str] | None,
        typer.Option(
            "--class", help="A class, once for each. Default: those of the --prompts file, else the table's labels."
        ),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Prompts drawn for each class.")] = PER_CLASS,
    seed: Annotated[int, typer.Option(min=0, help="Of that drawing.")] = 0,
    form: Annotated[Form, typer.Option(help="Local score: maximum (released) or log-sum-exp (paper).")] = "released",
    ensemble: Annotated[Ensemble, typer.Option(help="Over the prompts of a class.")] = "max",
    calibrate: Annotated[
        Path | None,
        typer.Option(
            help="Standardize each class by its scores on the images of this table, which are then written beside OUT; "
            "or by those, the .calibration.json of an earlier run."
        ),
    ] = None,
    batch_size: BatchSize = 32,
    cpu: Cpu = False,
) -> None:
    """Classify the images of a table by classes given in words; with labels, print how well that went."""
    with plain_errors():
        refuse_overwriting(out, table, calibrate, Path(prompts))
        rows = good_rows(table, skip=True, reports=False)
        texts = _choose_prompts(prompts, table, rows, classes, count, seed)
        labels = _true_labels(rows, list(texts), table)
        saved = calibrate is not None and calibrate.suffix == ".json"
        calibration = Calibration.load(calibrate) if saved and calibrate else None
        calibrating = good_rows(calibrate, skip=True, reports=False) if calibrate and not saved else []
        out.parent.mkdir(parents=True, exist_ok=True)
        classifier = ZeroShotClassifier(
            *load_run(run, cpu), texts, form=form, ensemble=ensemble, calibration=calibration, batch_size=batch_size
        )
        if calibrating:
            images = [row.image for row in calibrating]
            made = classifier.calibrate(images, source=str(calibrate), progress=True)
            made.save(out.with_suffix(".calibration.json"))
            say(f"calibrated on {made.images} images; wrote {out.with_suffix('.calibration.json')}")
        scores = classifier.scores([row.image for row in rows], progress=True)
        predicted = [classifier.classes[index] for index in scores.argmax(1).tolist()]
        with out.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["image", "label", "predicted", *(f"score {name}" for name in classifier.classes)])
            for row, label, answer, line in zip(rows, labels, predicted, scores.tolist(), strict=True):
                writer.writerow([row.image, label, answer, *line])
    say(f"wrote {len(rows)} predictions to {out}")
    known = [(answer, label) for answer, label in zip(predicted, labels, strict=True) if label]
    if known:
        say(f"in percent, on the {len(known)} images with a label:")
        answers, truth = zip(*known, strict=True)
        say(format_classification(classification_table(answers, truth, classifier.classes)))


def _choose_prompts(
    given: str, table: Path, rows: Sequence[Row], classes: list[str] | None, count: int, seed: int
) -> Prompts:
    of_labels = list(dict.fromkeys(row.label for row in rows if row.label))
    if given == "generated":
        try:
            return generated_prompts(classes or of_labels or COMPETITION, count, seed)
        except ValueError as error:
            raise ValueError(f"{error}: --prompts FILE.yaml, or --prompts name") from error
    if given == "name":
        if not (classes or of_labels):
            raise ValueError(f"--prompts is 'name', but {table} has no labels; name the classes, each with --class")
        return named_prompts(classes or of_labels)
    path = Path(given)
    if path.suffix.lower() in (".yaml", ".yml"):
        found = read_prompts(path, count, seed)
    elif is_table(path):
        others, own = read_table(path, ["report"]), {row.image.resolve() for row in rows if row.image}
        shared = [row for row in others if row.image and row.image.resolve() in own]
        if shared:
            raise ValueError(
                f"{path}, {shared[0].where}: the image is one of those to classify ({len(shared)} are), whose reports "
                "give their labels away; take other rows"
            )
        found = prompts_of_rows(others, count, seed)
    else:
        raise ValueError(f"--prompts is {given!r}; expected 'name', 'generated', a YAML file or a table")
    for name in classes or ():
        if name not in found:
            raise ValueError(f"--class is {name!r}, but {path} has the classes {', '.join(map(repr, found))}")
    return {name: found[name] for name in classes or found}


def _true_labels(rows: Sequence[Row], classes: Sequence[str], table: Path) -> list[str]:
    """Return each row's label as its class is spelled, else the only class that its `labels` mark present, else ""."""
    spelled = {name.casefold(): name for name in classes}
    found = []
    for row in rows:
        if row.label and row.label.casefold() not in spelled:
            raise ValueError(
                f"{table}, {row.where}: the label {row.label!r} is none of the classes "
                f"{', '.join(map(repr, classes))}; give it prompts, or leave such rows out"
            )
        present = [name for name, value in row.labels.items() if value == 1 and name.casefold() in spelled]
        label = row.label or (present[0] if len(present) == 1 else "")
        found.append(spelled[label.casefold()] if label else "")
    return found
