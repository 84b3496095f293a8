"""`gloria import`: a public data set, as it ships, to one table."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from gloria.cli.common import plain_errors, say
from gloria.data import write_table
from gloria.data.layouts import Imported, five_by, read_chexpert, read_mimic, read_openi, read_rsna
from gloria.data.sections import Section

Layout = Literal["mimic", "chexpert", "openi", "rsna"]
# Which options mean something for which layout.
OPTIONS = {
    "--reports": ("mimic",),
    "--section": ("mimic", "chexpert", "openi"),
    "--all-views": ("mimic", "chexpert"),
    "--five": ("chexpert",),
}


def import_table(
    layout: Annotated[Layout, typer.Argument(help="MIMIC-CXR(-JPG), CheXpert (Plus), Open-i, RSNA pneumonia.")],
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="Folder that the data set was unpacked to.")],
    out: Annotated[Path, typer.Option(help="Table to write: .csv, .tsv or .jsonl, each also .gz, or .parquet.")],
    reports: Annotated[Path | None, typer.Option(help="mimic: folder of the reports, where it is not ROOT.")] = None,
    section: Annotated[
        Section | None, typer.Option(help="What is taken of a report. Default: both, findings and impression.")
    ] = None,
    all_views: Annotated[bool, typer.Option("--all-views", help="Lateral views too.")] = False,
    five: Annotated[
        Path | None,
        typer.Option(help="chexpert: draw a set like CheXpert 5x200 into this table; OUT leaves its patients out."),
    ] = None,
    of_each: Annotated[int, typer.Option(min=1, help="Images of each class in --five.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Of the drawing of --five.")] = 0,
) -> None:
    """Read a public data set as it ships, and write one table of it."""
    with plain_errors():
        given = {"--reports": reports, "--section": section, "--all-views": all_views, "--five": five}
        for name, value in given.items():
            if value and layout not in OPTIONS[name]:
                raise ValueError(f"{name} means nothing for {layout}; it is for {', '.join(OPTIONS[name])}")
        imported = _read(layout, root, reports, section or "both", all_views)
        for line in imported.summary():
            say(line, err=True)
        if not imported.rows:
            raise ValueError(f"nothing in {root} became a row, for the reasons above; expected images and their list")
        rows = imported.rows
        if five:
            chosen, rows = five_by(rows, of_each, seed)
            if not rows:
                raise ValueError(
                    f"--five takes images of all {len({row.patient for row in chosen})} patients, which leaves no row "
                    f"for {out}; draw fewer (--of-each), or leave --five out"
                )
            write_table(five, chosen)
            say(f"wrote {five}: {len(chosen)} rows")
        write_table(out, rows)
        say(f"wrote {out}: {len(rows)} rows")


def _read(layout: Layout, root: Path, reports: Path | None, section: Section, all_views: bool) -> Imported:
    if layout == "mimic":
        return read_mimic(root, reports, section, all_views)
    if layout == "chexpert":
        return read_chexpert(root, section, all_views)
    return read_openi(root, section) if layout == "openi" else read_rsna(root)
