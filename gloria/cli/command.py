"""The command `gloria`: its subcommands and its entry point."""

import warnings

import typer

from gloria.cli.attend import attend, localize
from gloria.cli.common import format_warning
from gloria.cli.convert import card, convert
from gloria.cli.finetune import app as finetune
from gloria.cli.imports import import_table
from gloria.cli.index import app as index
from gloria.cli.reproduce import reproduce
from gloria.cli.retrieve import retrieve
from gloria.cli.shards import shards
from gloria.cli.tables import phantoms, validate_data
from gloria.cli.train import train
from gloria.cli.zero_shot import classify

app = typer.Typer(
    help="GLoRIA: global and local representations of chest X-rays and their reports.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    rich_markup_mode=None,
)
for command in (validate_data, phantoms, shards, train, retrieve, classify, attend, localize, reproduce, convert, card):
    app.command()(command)
app.command("import")(import_table)
app.add_typer(index, name="index")
app.add_typer(finetune, name="finetune")


def main() -> None:
    """Entry point of the console script."""
    warnings.formatwarning = format_warning
    app()
