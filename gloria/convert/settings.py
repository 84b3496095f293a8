"""Reads the released code's training settings, as far as a converted model depends on them."""

import sys
from dataclasses import dataclass
from typing import Any

from transformers import ResNetConfig

from gloria.messages import shown
from gloria_ops import LocalScore

SEEN = 299  # side in pixels to which the released image encoder enlarges every image
NORMS = {"half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))}
RESNETS: dict[str, dict[str, Any]] = {
    "resnet_18": {"hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2], "layer_type": "basic"},
    "resnet_34": {"hidden_sizes": [64, 128, 256, 512], "depths": [3, 4, 6, 3], "layer_type": "basic"},
    "resnet_50": {"hidden_sizes": [256, 512, 1024, 2048], "depths": [3, 4, 6, 3], "layer_type": "bottleneck"},
}
# Of the released code's settings, the values that GloriaModel has.
ONLY = {
    "model.text.aggregate_method": ("sum",),
    "model.text.norm": (False,),
    "model.text.agg_tokens": (True,),
    "model.vision.model_name": tuple(RESNETS),
    "transforms.norm": tuple(NORMS),
}
# Numeric settings of a model, by their range.
ABOVE_ZERO = ("model.gloria.temp1", "model.gloria.temp2", "model.gloria.temp3")
FROM_ZERO = ("model.gloria.local_loss_weight", "model.gloria.global_loss_weight")
COUNTS = ("data.text.word_num", "data.image.imsize", "transforms.random_crop.crop_size")


@dataclass(frozen=True)
class Settings:
    """Holds training settings; the defaults are those of the released pre-training on CheXpert with a ResNet-50.

    Attributes:
        image_encoder: one of `RESNETS`.
        text_encoder: hub name of the BERT that training started from.
        last_layers: number of hidden layers that are summed.
        attention_scale: temp1.
        word_scale: temp2.
        logit_scale: temp3, of both losses.
        local_weight: weight of the local loss.
        global_weight: weight of the global loss.
        max_length: most word pieces of a report.
        longer_side: pixels to which the longer side of an image is scaled; the encoder sees the middle `SEEN`.
        image_mean: per channel.
        image_std: per channel.
    """

    image_encoder: str = "resnet_50"
    text_encoder: str = "emilyalsentzer/Bio_ClinicalBERT"
    last_layers: int = 4
    attention_scale: float = 4.0
    word_scale: float = 5.0
    logit_scale: float = 10.0
    local_weight: float = 1.0
    global_weight: float = 1.0
    max_length: int = 97
    longer_side: int = round(SEEN * 256 / 224)
    image_mean: tuple[float, ...] = NORMS["half"][0]
    image_std: tuple[float, ...] = NORMS["half"][1]

    @classmethod
    def of(cls, hyper_parameters: dict[str, Any]) -> "Settings":
        """Make settings from the hyper-parameters of a checkpoint; missing ones get the released default.

        Raises:
            ValueError: settings that `GloriaModel` does not have: the message names all of them.
        """
        given = _flatten(hyper_parameters)
        other = [
            f"{name} is {shown(given[name])}, expected {' or '.join(map(repr, known))}"
            for name, known in ONLY.items()
            if name in given and given[name] not in known
        ]
        other += _invalid_values(given)
        last_layers = given.get("model.text.last_n_layers", cls.last_layers)
        if not isinstance(last_layers, int) or last_layers < 2:
            # With one layer, the released code neither sums layers nor merges word pieces.
            other.append(f"model.text.last_n_layers is {shown(last_layers)}, expected 2 or more")
        if other:
            raise ValueError(f"the checkpoint was trained in a way that GloriaModel does not have: {'; '.join(other)}")
        mean, std = NORMS[given.get("transforms.norm", "half")]
        side = given.get("data.image.imsize", 256)
        # Without cropping, the whole square is enlarged.
        uncropped = given.get("transforms.random_crop", "cropped") is None
        crop = side if uncropped else given.get("transforms.random_crop.crop_size", 224)
        return cls(
            image_encoder=given.get("model.vision.model_name", cls.image_encoder),
            text_encoder=given.get("model.text.bert_type", cls.text_encoder),
            last_layers=last_layers,
            attention_scale=given.get("model.gloria.temp1", cls.attention_scale),
            word_scale=given.get("model.gloria.temp2", cls.word_scale),
            logit_scale=given.get("model.gloria.temp3", cls.logit_scale),
            local_weight=given.get("model.gloria.local_loss_weight", cls.local_weight),
            global_weight=given.get("model.gloria.global_loss_weight", cls.global_weight),
            max_length=given.get("data.text.word_num", cls.max_length),
            longer_side=round(SEEN * side / crop),
            image_mean=mean,
            image_std=std,
        )

    def image_config(self) -> ResNetConfig:
        """Return the ResNet's configuration, with the stride in the 3 x 3 convolution as in torchvision."""
        return ResNetConfig(**RESNETS[self.image_encoder], downsample_in_bottleneck=False)

    def score(self) -> LocalScore:
        """Return the local score."""
        return LocalScore(
            attention_scale=self.attention_scale, word_scale=self.word_scale, logit_scale=self.logit_scale
        )


def _invalid_values(given: dict[str, Any]) -> list[str]:
    """Describe the values that are not numbers, or out of range."""
    found = []
    for names, kinds, least, expected in (
        (ABOVE_ZERO, (int, float), sys.float_info.min, "a number above 0"),
        (FROM_ZERO, (int, float), 0, "a number from 0"),
        (COUNTS, (int,), 1, "a whole number from 1"),
    ):
        for name in names:
            value = given.get(name, 1)
            if not isinstance(value, kinds) or isinstance(value, bool) or not least <= value < sys.float_info.max:
                found.append(f"{name} is {shown(value)}, expected {expected}")
    name = "model.text.bert_type"
    if not isinstance(given.get(name, ""), str):
        found.append(f"{name} is {shown(given[name])}, expected a name")
    return found


def _flatten(node: dict[str, Any], path: str = "") -> dict[str, Any]:
    """Flatten nested dicts into one with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in node.items():
        flat |= _flatten(value, f"{path}{name}.") if isinstance(value, dict) else {f"{path}{name}": value}
    return flat
