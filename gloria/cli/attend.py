"""`gloria attend` and `gloria localize`: show and measure where words look."""

import csv
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from gloria.attention import (
    THRESHOLDS,
    TOLERANCE,
    Localization,
    attention_figure,
    attention_page,
    format_localization,
    localize_rows,
    save_figure,
)
from gloria.cli.common import OutFolder, Run, Table, load_run, plain_errors, refuse_overwriting, say
from gloria.data import Row, read_table
from gloria.encoding import check_text
from gloria.training.options import Cpu

GRID, PAGE = "attention.png", "attention.html"


def attend(
    run: Run,
    out: OutFolder,
    image: Annotated[Path | None, typer.Option(help="Image to look at.")] = None,
    report: Annotated[str | None, typer.Option(help="Text whose words look.")] = None,
    mask: Annotated[Path | None, typer.Option(help="Mask of the finding, to outline.")] = None,
    table: Annotated[Path | None, typer.Option(help="Table to take image, report and mask from, with --line.")] = None,
    line: Annotated[int | None, typer.Option(min=2, help="Line of the table on which the row starts.")] = None,
    cpu: Cpu = False,
) -> None:
    """Draw what each word of a report looks at: a grid of pictures, and a page to open and point at words in."""
    with plain_errors():
        row = _chosen_row(image, report, mask, table, line)
        model, processor = load_run(run, cpu)
        name = Path(str(row.image)).name
        page = attention_page(model, processor, row.image, row.report, row.mask, title=name)
        figure = attention_figure(model, processor, row.image, row.report, row.mask, title=name)
        out.mkdir(parents=True, exist_ok=True)
        save_figure(figure, out / GRID)
        (out / PAGE).write_text(page, encoding="utf-8")
    say(f"wrote {GRID} and {PAGE} to {out}")


def localize(
    run: Run,
    table: Table,
    text: Annotated[
        Literal["report", "label"],
        typer.Option(help="What is read: the report, or the label that names the finding."),
    ] = "report",
    tolerance: Annotated[float, typer.Option(min=0, help="Of the pointing game, in pixels of the image.")] = TOLERANCE,
    out: Annotated[Path | None, typer.Option(help="CSV to write every row's figures to.")] = None,
    cpu: Cpu = False,
) -> None:
    """Measure on a table with masks or boxes how well attention falls on findings, beside what chance would give."""
    with plain_errors():
        if out is not None:
            refuse_overwriting(out, table)
        rows = read_table(table)
        if not any(row.mask or row.boxes for row in rows):
            raise ValueError(f"{table} names no mask and no box; expected a column mask or boxes, filled in some rows")
        model, processor = load_run(run, cpu)
        found = list(localize_rows(model, processor, rows, text, tolerance, progress=True))
        if not found:
            raise ValueError(f"all masks of {table} are empty; expected bright pixels where the finding is")
        if out is not None:
            _write_figures(out, found)
    say(
        f"Attention on the findings of {len(found)} rows with a mask or box, of {len(rows)}, in percent\n"
        f"(pointing game within {tolerance:g} pixels; mean IoU over the thresholds "
        f"{', '.join(map(str, THRESHOLDS))} of the maximum):\n{format_localization(found)}"
    )


def _chosen_row(image: Path | None, report: str | None, mask: Path | None, table: Path | None, line: int | None) -> Row:
    by_hand = image is not None and report is not None and table is None and line is None
    by_table = table is not None and line is not None and image is None and report is None and mask is None
    if not by_hand and not by_table:
        raise ValueError("expected either --image and --report (and --mask, if there is one), or --table and --line")
    if table is None:
        check_text("--report", report)
        return Row(0, image, str(report), mask=mask)
    rows = {row.line: row for row in read_table(table)}
    if line not in rows:
        raise ValueError(
            f"no row of {table} starts on line {line}; the first does on {min(rows)}, the last on {max(rows)}"
        )
    if rows[line].fault or rows[line].image is None:
        raise ValueError(f"{table}, line {line}: {rows[line].fault or 'the image is not named'}")
    check_text(f"{table}, line {line}: the report", rows[line].report)
    return rows[line]


def _write_figures(path: Path, found: list[tuple[Row, Localization]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        for row, figures in found:
            values = asdict(figures)
            ious = dict(zip((f"iou_at_{share}" for share in THRESHOLDS), values.pop("ious"), strict=True))
            if file.tell() == 0:
                writer.writerow(["line", "image", "label", *values, *ious])
            writer.writerow([row.line, row.image, row.label, *values.values(), *ious.values()])
