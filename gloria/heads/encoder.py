"""ImageEncoderHead: what the heads share, the image encoder of a GLoRIA without its text side, frozen or trained."""

from copy import deepcopy
from typing import Any

from transformers import PreTrainedModel

from gloria.configuration import GloriaConfig
from gloria.features import image_class


class ImageEncoderHead(PreTrainedModel):
    """The image encoder of a GLoRIA; a head comes on top.

    `from_pretrained` takes the folder of any GLoRIA, of which it leaves out the text encoder and the projections.

    Args:
        config: of the GLoRIA, with the classes of the head; copied.

    Attributes:
        frozen: whether the encoder stays as it is. Not saved.
    """

    config: GloriaConfig
    config_class = GloriaConfig
    base_model_prefix = "gloria"
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # losses are means over the batch, not sums for Trainer to divide by a count
    _supports_sdpa = True
    _supports_flash_attn = True
    _keys_to_ignore_on_load_unexpected = [  # noqa: RUF012, which would have a ClassVar, as the base class has not
        r"^(text_encoder|text_projection|word_projection|image_projection|region_projection|image_pooling)\."
    ]
    frozen = False

    def __init__(self, config: GloriaConfig) -> None:
        super().__init__(deepcopy(config))
        self._choose(self.config)
        self.image_encoder = image_class(self.config).from_config(self.config.image_config)

    def _choose(self, config: GloriaConfig) -> None:
        """Set what the head needs in its own copy of the configuration, before the encoder is made."""

    def freeze(self) -> None:
        """Keep the encoder as it is from here on, running statistics included: it gets no gradients, no dropout."""
        self.frozen = True
        self.image_encoder.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Any:
        """Set the training mode, in which a frozen encoder is never."""
        super().train(mode)
        if self.frozen:
            self.image_encoder.eval()
        return self
