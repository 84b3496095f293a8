"""GloriaForImageClassification: one linear layer on the image vector of a GLoRIA's encoder."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForImageClassification
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

from gloria.configuration import GloriaConfig
from gloria.features import image_maps, image_widths
from gloria.heads.encoder import ImageEncoderHead

PROBLEM_TYPES = ("multi_label_classification", "single_label_classification")


class GloriaForImageClassification(ImageEncoderHead):
    """A linear layer on the vector that the image encoder gives of a whole image, before GLoRIA projects it.

    Classes are `config.id2label`. `config.problem_type` is "multi_label_classification" where none is given (each class
    present or absent by itself), or "single_label_classification" (one class of all).

    Raises:
        ValueError: another problem type; `pos_weight` without multi-label classes, or of another number.
    """

    def __init__(self, config: GloriaConfig) -> None:
        super().__init__(config)
        _, width = image_widths(self.image_encoder, self.config)
        self.classifier = nn.Linear(width, len(self.config.id2label or ()))
        self.post_init()

    def _choose(self, config: Any) -> None:
        config.problem_type = config.problem_type or PROBLEM_TYPES[0]
        if config.problem_type not in PROBLEM_TYPES:
            raise ValueError(
                f"problem_type is {config.problem_type!r}; expected {' or '.join(map(repr, PROBLEM_TYPES))}"
            )
        weights = config.pos_weight
        if weights is not None and (config.problem_type != PROBLEM_TYPES[0] or len(weights) != config.num_labels):
            raise ValueError(
                f"pos_weight is {weights} for {config.num_labels} classes of a {config.problem_type}; expected a "
                "number for each class of a multi_label_classification"
            )

    def get_image_vectors(self, pixel_values: Tensor) -> Tensor:
        """Return what the classifier takes of the images (B, 3, height, width): (B, C)."""
        return image_maps(self.image_encoder, pixel_values, self.config)[2]

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> ImageClassifierOutput:
        """Classify.

        Args:
            pixel_values: (B, 3, height, width).
            labels: multi-label: (B, classes) floating, 1 = present, 0 = absent, NaN = not labeled, which the loss
                leaves out. Single-label: (B,) int64, -100 = not labeled.

        Returns:
            logits (B, classes), and with labels the loss, see `loss`.
        """
        logits = self.classifier(self.get_image_vectors(pixel_values))
        return ImageClassifierOutput(loss=None if labels is None else self.loss(logits, labels), logits=logits)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross entropy over what is labeled, 0 where nothing is; positives weigh `pos_weight`.

        Args:
            logits: (B, classes).
            labels: as in `forward`.
        """
        if self.config.problem_type == PROBLEM_TYPES[1]:
            summed = nn.functional.cross_entropy(logits, labels, reduction="sum")
            return summed / (labels >= 0).sum().clamp(min=1)
        labeled = ~labels.isnan()
        weights = self.config.pos_weight
        each = nn.functional.binary_cross_entropy_with_logits(
            logits,
            labels.to(logits.dtype).where(labeled, 0),
            reduction="none",
            pos_weight=None if weights is None else logits.new_tensor(weights),
        )
        return each.where(labeled, 0).sum() / labeled.sum().clamp(min=1)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the probability of each class, (B, classes)."""
        return logits.sigmoid() if self.config.problem_type == PROBLEM_TYPES[0] else torch.softmax(logits, 1)


AutoModelForImageClassification.register(GloriaConfig, GloriaForImageClassification, exist_ok=True)
# The pipeline looks here too, where `register` puts nothing, and else logs that it does not support the model.
MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES[GloriaConfig.model_type] = GloriaForImageClassification.__name__
