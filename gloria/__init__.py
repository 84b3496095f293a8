"""GLoRIA: global and local representations of images and reports, in the conventions of transformers."""

from gloria.configuration import GloriaConfig
from gloria.images import GloriaImageProcessor
from gloria.modeling import GloriaModel, GloriaOutput
from gloria.processing import GloriaProcessor

__version__ = "0.1.0"

__all__ = ["GloriaConfig", "GloriaImageProcessor", "GloriaModel", "GloriaOutput", "GloriaProcessor", "__version__"]
