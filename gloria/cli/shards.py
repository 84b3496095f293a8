"""`gloria shards`: writes a table's training rows as tar files."""

from typing import Annotated

import typer

from gloria.cli.common import BadRows, HeldOut, OutFolder, Table, good_rows, plain_errors, say
from gloria.data import split_rows, write_shards, write_table
from gloria.messages import counted
from gloria.training import HELD_OUT


def shards(
    table: Table,
    out: OutFolder,
    shards: Annotated[int, typer.Option(min=1, help="Number of files: a multiple of ranks times workers.")] = 16,
    longest_side: Annotated[
        int | None, typer.Option(min=1, help="Make larger images smaller. Default: the files as they are.")
    ] = None,
    held_out: HeldOut = 0.2,
    seed: Annotated[int, typer.Option(min=0, help="Of the split and the order.")] = 0,
    bad_rows: BadRows = "refuse",
) -> None:
    """Write a table's training rows as tar shards, and a table of the rows held out beside them."""
    with plain_errors():
        training, held = split_rows(good_rows(table, skip=bad_rows == "skip"), held_out, seed)
        paths = write_shards(training, out, shards, longest_side, seed, progress=True)
        write_table(out / HELD_OUT, held)
        say(
            f"wrote {counted(len(training), 'row')} to {counted(len(paths), 'shard')} in {out}, and {len(held)} to "
            f"{out / HELD_OUT}"
        )
