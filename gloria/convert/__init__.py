"""Converts checkpoints of the released GLoRIA code to a GloriaModel."""

from gloria.convert.checkpoint import read_checkpoint
from gloria.convert.model import convert, model_of
from gloria.convert.names import released_names
from gloria.convert.settings import Settings

__all__ = ["Settings", "convert", "model_of", "read_checkpoint", "released_names"]
