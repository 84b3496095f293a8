"""What an image encoder gives of an image, whatever its kind: maps of regions, and one vector of the whole."""

from typing import Any

from torch import Tensor
from transformers import AutoBackbone, AutoModel, PretrainedConfig

from gloria.configuration import GloriaConfig


def image_class(config: GloriaConfig) -> Any:
    """Return the Auto class that makes the image encoder of a configuration."""
    return AutoModel if config.region_stage is None else AutoBackbone


def image_widths(encoder: Any, config: GloriaConfig) -> tuple[int, int]:
    """Return the channels of the map that holds the regions, and of the last one."""
    if config.region_stage is not None:
        return encoder.channels[0], encoder.channels[-1]
    return config.image_config.hidden_size, config.image_config.hidden_size


def image_maps(encoder: Any, pixel_values: Tensor, config: GloriaConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Return the map of the regions, the last map, (B, C, H, W) each, and the vector of the whole image, (B, C).

    Of an encoder with stages, the vector is the mean of the last map; of a vision transformer, both maps are the
    patch tokens, and the vector is the pooled output (the class token where there is no pooler, else the mean of the
    patches).

    Args:
        encoder: as the configuration says.
        pixel_values: (B, 3, height, width).
        config: of the model that the encoder is part of.
    """
    if config.region_stage is not None:
        maps = encoder(pixel_values).feature_maps
        return maps[0], maps[-1], maps[-1].mean(dim=(-2, -1))
    patches, image_features = _patches(encoder(pixel_values), pixel_values, config.image_config)
    return patches, patches, image_features


def _patches(encoded: Any, pixel_values: Tensor, image_config: PretrainedConfig) -> tuple[Tensor, Tensor]:
    """Return the patch tokens as a map (B, C, H, W), and the vector of the image (B, C), of a vision transformer."""
    size = image_config.patch_size
    patch_height, patch_width = size if isinstance(size, (tuple, list)) else (size, size)
    height, width = pixel_values.shape[-2] // patch_height, pixel_values.shape[-1] // patch_width
    tokens = encoded.last_hidden_state
    before = tokens.shape[1] - height * width  # the class token and any register tokens
    if tokens.dim() != 3 or before < 0:
        raise ValueError(
            f"the image encoder gives tokens of shape {tuple(tokens.shape)} for {height} x {width} patches; expected "
            "(B, tokens, C) with a token for each patch. Choose a plain vision transformer, or an encoder that "
            "transformers' AutoBackbone has"
        )
    patches = tokens[:, before:]
    image_features = getattr(encoded, "pooler_output", None)
    if image_features is None:
        image_features = tokens[:, 0] if before else patches.mean(1)
    return patches.transpose(1, 2).unflatten(2, (height, width)), image_features
