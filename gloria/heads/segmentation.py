"""GloriaForSemanticSegmentation: a small U-Net decoder on the stages of a GLoRIA's image encoder."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSemanticSegmentation, initialization
from transformers.modeling_outputs import SemanticSegmenterOutput
from transformers.models.auto.modeling_auto import MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES

from gloria.configuration import GloriaConfig
from gloria.features import image_maps
from gloria.heads.encoder import ImageEncoderHead

IGNORED = 255  # in labels, as transformers' semantic_loss_ignore_index
WIDEST = 256  # channels of the decoder, at most


class UNetDecoder(nn.Module):
    """From the deepest map up: enlarge, put the next map beside it, one convolution (Ronneberger et al., 2015).

    Args:
        channels: of the maps, the deepest last.
        classes: number of them.
    """

    def __init__(self, channels: Sequence[int], classes: int) -> None:
        super().__init__()
        self.steps = nn.ModuleList()
        width = channels[-1]
        for beside in reversed(channels[:-1]):
            narrower = min(beside, WIDEST)
            convolution = nn.Conv2d(width + beside, narrower, kernel_size=3, padding=1)
            # Not a batch norm: of few labeled images, batches are small.
            self.steps.append(nn.Sequential(convolution, nn.GroupNorm(1, narrower), nn.ReLU()))
            width = narrower
        self.classifier = nn.Conv2d(width, classes, kernel_size=1)

    def forward(self, maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """Return logits (B, classes, height, width) of maps (B, C, H, W), for a size (height, width)."""
        features = maps[-1]
        for step, beside in zip(self.steps, reversed(maps[:-1]), strict=True):
            features = step(torch.cat([_enlarged(features, beside.shape[-2:]), beside], 1))
        return _enlarged(self.classifier(features), size)


class GloriaForSemanticSegmentation(ImageEncoderHead):
    """A U-Net decoder on all stages of the image encoder; on the patches alone of a plain vision transformer.

    Classes are `config.id2label`, of which 0 is the background.

    Raises:
        ValueError: fewer than two classes.
    """

    def __init__(self, config: GloriaConfig) -> None:
        super().__init__(config)
        staged = self.config.region_stage is not None
        channels = self.image_encoder.channels if staged else [self.config.image_config.hidden_size]
        self.decoder = UNetDecoder(channels, len(self.config.id2label or ()))
        self.post_init()

    def _choose(self, config: Any) -> None:
        if config.num_labels < 2:
            raise ValueError(f"there are {config.num_labels} classes; expected the background, and at least one other")
        if config.region_stage is not None:
            config.image_config.out_features = config.image_config.stage_names[1:]  # but the stem

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Conv2d):
            # He's, for the ReLUs: a decoder as small at first as a projection may never leave "nothing anywhere".
            initialization.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> SemanticSegmenterOutput:
        """Segment.

        Args:
            pixel_values: (B, 3, height, width).
            labels: (B, height, width) int64, the class of each pixel, 255 = not labeled.

        Returns:
            logits (B, classes, height, width), and with labels the loss, see `loss`.
        """
        if self.config.region_stage is None:
            maps = [image_maps(self.image_encoder, pixel_values, self.config)[0]]
        else:
            maps = self.image_encoder(pixel_values).feature_maps
        logits = self.decoder(maps, pixel_values.shape[-2:])
        return SemanticSegmenterOutput(loss=None if labels is None else self.loss(logits, labels), logits=logits)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross entropy over the labeled pixels, plus 1 - Dice over the classes but the background.

        Dice is that of the probabilities over all pixels of the batch, (2 |P T| + 1) / (|P| + |T| + 1): cross entropy
        alone hardly notices a small finding.

        Args:
            logits: (B, classes, height, width).
            labels: as in `forward`.
        """
        labeled = labels != IGNORED
        summed = nn.functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
        truth = nn.functional.one_hot(labels.where(labeled, 0), logits.shape[1]).movedim(-1, 1)
        found, true = (each * labeled[:, None] for each in (logits.softmax(1), truth))
        common, total = (each.sum((0, 2, 3))[1:] for each in (found * true, found + true))
        dice = ((2 * common + 1) / (total + 1)).mean()
        return summed / labeled.sum().clamp(min=1) + 1 - dice


def _enlarged(maps: Tensor, size: Sequence[int]) -> Tensor:
    return nn.functional.interpolate(maps, tuple(size), mode="bilinear", align_corners=False)


AutoModelForSemanticSegmentation.register(GloriaConfig, GloriaForSemanticSegmentation, exist_ok=True)
# The pipeline looks here too, where `register` puts nothing, and else logs that it does not support the model.
MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES[GloriaConfig.model_type] = GloriaForSemanticSegmentation.__name__
