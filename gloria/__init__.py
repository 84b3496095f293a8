"""GLoRIA: global and local representations of images and reports, in the conventions of transformers."""

from transformers import AutoConfig, AutoModel, AutoProcessor

from gloria.configuration import GloriaConfig
from gloria.images import GloriaImageProcessor
from gloria.modelling import GloriaModel, GloriaOutput
from gloria.processing import GloriaProcessor
from gloria_ops import __version__

AutoConfig.register(GloriaConfig.model_type, GloriaConfig, exist_ok=True)
AutoModel.register(GloriaConfig, GloriaModel, exist_ok=True)
AutoProcessor.register(GloriaConfig, GloriaProcessor, exist_ok=True)

__all__ = ["GloriaConfig", "GloriaImageProcessor", "GloriaModel", "GloriaOutput", "GloriaProcessor", "__version__"]
