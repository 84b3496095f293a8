"""GLoRIA: global and local representations of images and reports, in the conventions of transformers."""

from gloria.configuration import GloriaConfig
from gloria.heads import GloriaForImageClassification, GloriaForSemanticSegmentation
from gloria.images import GloriaImageProcessor
from gloria.modeling import GloriaModel, GloriaOutput
from gloria.processing import GloriaProcessor
from gloria_ops import __version__

__all__ = [
    "GloriaConfig",
    "GloriaForImageClassification",
    "GloriaForSemanticSegmentation",
    "GloriaImageProcessor",
    "GloriaModel",
    "GloriaOutput",
    "GloriaProcessor",
    "__version__",
]
