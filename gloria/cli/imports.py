"""`gloria import`: makes one table of a public data set."""

from pathlib import Path
from typing import Annotated

import typer

from gloria.cli.common import plain_errors, say
from gloria.data import write_table
from gloria.data.layouts import LAYOUTS
from gloria.data.sections import Section
from gloria.messages import counted


def import_table(
    layout: Annotated[
        str,
        typer.Argument(metavar=f"[{'|'.join(LAYOUTS)}]", help=f"{', '.join(each.title for each in LAYOUTS.values())}."),
    ],
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="Folder that the data set was unpacked to.")],
    out: Annotated[Path, typer.Option(help="Table to write: .csv, .tsv or .jsonl, each also .gz, or .parquet.")],
    reports: Annotated[Path | None, typer.Option(help="mimic: folder of the reports, if it is not ROOT.")] = None,
    section: Annotated[
        Section | None, typer.Option(help="What is taken of a report. Default: both, findings and impression.")
    ] = None,
    all_views: Annotated[bool, typer.Option("--all-views", help="Lateral views too.")] = False,
    masks: Annotated[Path | None, typer.Option(help="siim: folder to write masks to. Default: ROOT/masks.")] = None,
    five: Annotated[
        Path | None,
        typer.Option(help="chexpert: draw a set like CheXpert 5x200 into this table; OUT leaves its patients out."),
    ] = None,
    of_each: Annotated[int, typer.Option(min=1, help="Images of each class in --five.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Of the drawing of --five.")] = 0,
) -> None:
    """Read a public data set as it ships, and write one table of it."""
    with plain_errors():
        if layout not in LAYOUTS:
            raise ValueError(f"the data set is {layout!r}; expected one of {', '.join(map(repr, LAYOUTS))}")
        for option, folder in (("ROOT", root), ("--reports", reports)):
            if folder is not None and not folder.is_dir():
                raise ValueError(f"{option} is {folder}, and there is no such folder; expected the unpacked data set")
        read, draw, meant = LAYOUTS[layout].read, LAYOUTS[layout].draw, LAYOUTS[layout].options
        options = {"reports": reports, "section": section, "all_views": all_views, "masks": masks, "five": five}
        given = {name: value for name, value in options.items() if value}
        for name in given:
            if name not in meant:
                fitting = ", ".join(key for key, each in LAYOUTS.items() if name in each.options)
                raise ValueError(f"--{name.replace('_', '-')} means nothing for {layout}; it is for {fitting}")
        imported = read(root, **{name: value for name, value in given.items() if name != "five"})
        for line in imported.summary():
            say(line, err=True)
        if not imported.rows:
            raise ValueError(f"nothing in {root} became a row, for the reasons above; expected images and their list")
        rows = imported.rows
        if five and draw:
            chosen, rows = draw(rows, of_each, seed)
            if not rows:
                raise ValueError(
                    f"--five takes images of all {len({row.patient for row in chosen})} patients, which leaves no row "
                    f"for {out}; draw fewer (--of-each), or leave --five out"
                )
            write_table(five, chosen)
            say(f"wrote {five}: {counted(len(chosen), 'row')}")
        write_table(out, rows)
        say(f"wrote {out}: {counted(len(rows), 'row')}")
