"""Maps the name of each weight in the released code to its name in GloriaModel."""

from transformers import ResNetConfig

NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
LINEAR = ("weight", "bias")

# Useless weights in checkpoints of the released code: positions are counted, and no loss used the text pooler.
UNUSED = (
    "text_encoder.model.embeddings.position_ids",
    "text_encoder.model.pooler.dense.weight",
    "text_encoder.model.pooler.dense.bias",
)


def released_names(image_config: ResNetConfig, text_layers: int) -> dict[str, str]:
    """Map the names of all weights and buffers: released code → GloriaModel.

    The released code holds torchvision's ResNet in img_encoder.model (without its last layer) and transformers' BERT in
    text_encoder.model. The names have no prefix "gloria." of the Lightning module.

    Args:
        image_config: depths and kind of the ResNet.
        text_layers: number of BERT's layers.
    """
    stem = "image_encoder.embedder.embedder"
    names = {"conv1.weight": f"{stem}.convolution.weight"}
    names |= {f"bn1.{part}": f"{stem}.normalization.{part}" for part in NORM}
    convolutions = 3 if image_config.layer_type == "bottleneck" else 2
    widths, depths = list(image_config.hidden_sizes or ()), list(image_config.depths or ())
    for stage, depth in enumerate(depths):
        for block in range(depth):
            theirs, ours = f"layer{stage + 1}.{block}", f"image_encoder.encoder.stages.{stage}.layers.{block}"
            pairs = [(f"conv{number + 1}", f"bn{number + 1}", f"layer.{number}") for number in range(convolutions)]
            # The path around a block is a convolution where the block changes the width or the resolution.
            if block == 0 and (stage > 0 or widths[0] != image_config.embedding_size):
                pairs.append(("downsample.0", "downsample.1", "shortcut"))
            for convolution, norm, layer in pairs:
                names[f"{theirs}.{convolution}.weight"] = f"{ours}.{layer}.convolution.weight"
                names |= {f"{theirs}.{norm}.{part}": f"{ours}.{layer}.normalization.{part}" for part in NORM}
    names = {f"img_encoder.model.{theirs}": ours for theirs, ours in names.items()}
    names |= {f"img_encoder.global_embedder.{part}": f"image_projection.{part}" for part in LINEAR}
    names["img_encoder.local_embedder.weight"] = "region_projection.weight"
    names |= {f"text_encoder.model.{each}": f"text_encoder.{each}" for each in _bert_names(text_layers)}
    return names


def _bert_names(layers: int) -> list[str]:
    """Return the names inside BERT, which transformers has not changed since."""
    tables = [f"embeddings.{each}_embeddings.weight" for each in ("word", "position", "token_type")]
    modules = ["embeddings.LayerNorm"]
    for layer in range(layers):
        modules += [
            f"encoder.layer.{layer}.{each}"
            for each in (
                "attention.self.query",
                "attention.self.key",
                "attention.self.value",
                "attention.output.dense",
                "attention.output.LayerNorm",
                "intermediate.dense",
                "output.dense",
                "output.LayerNorm",
            )
        ]
    return [*tables, *(f"{module}.{part}" for module in modules for part in LINEAR)]
