"""`gloria convert` and `gloria card`: import released weights, and publish weights."""

from pathlib import Path
from typing import Annotated

import typer

from gloria.card import write_card
from gloria.cli.common import Run, plain_errors, say
from gloria.convert import convert as convert_checkpoint


def convert(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="File that the released code wrote.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the model; none is overwritten.")],
    text_encoder: Annotated[
        str | None,
        typer.Option(help="Hub name or local directory of its configuration and tokenizer. Default: as it says."),
    ] = None,
) -> None:
    """Make a model of a checkpoint of the released GLoRIA code, chexpert_resnet50.ckpt for instance."""
    with plain_errors():
        if (out / "config.json").exists():
            raise ValueError(f"{out} already holds a model; name another folder")
        model, processor = convert_checkpoint(checkpoint, text_encoder)
        model.save_pretrained(out)
        processor.save_pretrained(out)
    parameters = sum(each.numel() for each in model.parameters())
    say(f"wrote a model of {parameters / 1e6:.1f} million parameters and its processor to {out}")


def card(
    run: Run,
    license: Annotated[str, typer.Option(help="As the hub lists them, e.g. cc-by-nc-4.0.")],
    name: Annotated[str | None, typer.Option(help="Of the model. Default: that of the folder.")] = None,
    data: Annotated[str | None, typer.Option(help="Name of what it was trained and measured on.")] = None,
    notes: Annotated[Path | None, typer.Option(help="Markdown file to add.")] = None,
) -> None:
    """Write the model card of a run, README.md, for the Hugging Face hub; nothing is sent."""
    with plain_errors():
        written = write_card(run, license, name, data, None if notes is None else notes.read_text(encoding="utf-8"))
    say(f"wrote {written}")
