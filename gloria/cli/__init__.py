"""The command `gloria`, one module for each room of commands."""

import typer

from gloria.cli.index import app as index
from gloria.cli.retrieve import retrieve
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
for command in (validate_data, phantoms, train, retrieve, classify):
    app.command()(command)
app.add_typer(index, name="index")


def main() -> None:
    """Entry point of the console script."""
    app()
