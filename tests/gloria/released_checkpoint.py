"""A checkpoint as the released code writes it: its names and shapes, written down again, and its forward passes."""

import torch
from torch.nn import functional as F


def released_shapes(
    stem=64, planes=(64, 128, 256, 512), depths=(3, 4, 6, 3), bottleneck=True,
    hidden=768, intermediate=3072, vocabulary=28996, positions=512, layers=12, shared=None,
):  # fmt: skip
    """Names and shapes of the state dict of GLoRIA with a torchvision ResNet and BERT base; the defaults are released.

    torchvision: ResNet.__init__ and _make_layer; expansion 4 for bottlenecks. transformers: BertModel with its pooler.
    """
    shapes = {}

    def convolution(name, outputs, inputs, size):
        shapes[f"{name}.weight"] = (outputs, inputs, size, size)

    def norm(name, width):
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{part}"] = (width,)
        shapes[f"{name}.num_batches_tracked"] = ()

    def linear(name, outputs, inputs):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (outputs, inputs), (outputs,)

    def layer_norm(name):
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (hidden,)

    image = "img_encoder.model"
    convolution(f"{image}.conv1", stem, 3, 7)
    norm(f"{image}.bn1", stem)
    expansion, width, widths = 4 if bottleneck else 1, stem, []
    for stage, (plane, depth) in enumerate(zip(planes, depths, strict=True), 1):
        for block in range(depth):
            name, stride = f"{image}.layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            sizes = [(plane, width, 1), (plane, plane, 3), (plane * 4, plane, 1)]
            for number, size in enumerate(sizes if bottleneck else [(plane, width, 3), (plane, plane, 3)], 1):
                convolution(f"{name}.conv{number}", *size)
                norm(f"{name}.bn{number}", size[0])
            if stride != 1 or width != plane * expansion:
                convolution(f"{name}.downsample.0", plane * expansion, width, 1)
                norm(f"{name}.downsample.1", plane * expansion)
            width = plane * expansion
        widths.append(width)
    linear("img_encoder.global_embedder", hidden, widths[3])
    convolution("img_encoder.local_embedder", hidden, widths[2], 1)

    text = "text_encoder.model"
    shapes[f"{text}.embeddings.position_ids"] = (1, positions)
    for name, rows in (("word", vocabulary), ("position", positions), ("token_type", 2)):
        shapes[f"{text}.embeddings.{name}_embeddings.weight"] = (rows, hidden)
    layer_norm(f"{text}.embeddings.LayerNorm")
    for layer in range(layers):
        name = f"{text}.encoder.layer.{layer}"
        for part in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            linear(f"{name}.{part}", hidden, hidden)
        layer_norm(f"{name}.attention.output.LayerNorm")
        linear(f"{name}.intermediate.dense", intermediate, hidden)
        linear(f"{name}.output.dense", hidden, intermediate)
        layer_norm(f"{name}.output.LayerNorm")
    linear(f"{text}.pooler.dense", hidden, hidden)
    return shapes


def random_weights(shapes, seed=0):
    """Weights of a size that keeps activations near 1, and running statistics that are not those of a new model."""
    random = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            weights[name] = torch.tensor(7)
        elif name.endswith("position_ids"):
            weights[name] = torch.arange(shape[1])[None]
        elif name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")):
            weights[name] = torch.empty(shape).uniform_(0.7, 1.3, generator=random)
        else:
            fan_in = shape[1] * shape[2] * shape[3] if len(shape) == 4 else shape[-1]
            scale = 0.1 if len(shape) == 1 else (1.0 if "embeddings" in name else fan_in**-0.5)
            weights[name] = torch.empty(shape).normal_(0, scale, generator=random)
    return weights


def released_image(weights, pixels, depths=(3, 4, 6, 3)):
    """img_encoder: whole vectors and region maps of pixels (B, 3, h, w), which it enlarges to 299 itself."""

    def norm(name, x):
        parts = (weights[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *parts, eps=1e-5)

    def convolution(name, x, stride=1):
        kernel = weights[f"{name}.weight"]
        return F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)

    name = "img_encoder.model"
    x = F.interpolate(pixels, size=(299, 299), mode="bilinear", align_corners=True)
    x = F.max_pool2d(F.relu(norm(f"{name}.bn1", convolution(f"{name}.conv1", x, 2))), 3, 2, 1)
    maps = []
    for stage, depth in enumerate(depths, 1):
        for block in range(depth):
            unit, stride = f"{name}.layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            bottleneck = f"{unit}.conv3.weight" in weights
            y = x
            # torchvision since version 1.5 of the recipe: the 3 x 3 convolution of a bottleneck has the stride.
            for number, step in enumerate([1, stride, 1] if bottleneck else [stride, 1], 1):
                y = norm(f"{unit}.bn{number}", convolution(f"{unit}.conv{number}", y, step))
                y = F.relu(y) if number < (3 if bottleneck else 2) else y
            if f"{unit}.downsample.0.weight" in weights:
                x = norm(f"{unit}.downsample.1", convolution(f"{unit}.downsample.0", x, stride))
            x = F.relu(x + y)
        maps.append(x)
    whole = maps[3].mean((2, 3)) @ weights["img_encoder.global_embedder.weight"].T
    return whole + weights["img_encoder.global_embedder.bias"], convolution("img_encoder.local_embedder", maps[2])


def released_pieces(weights, ids, heads, layers=12, last=4):
    """text_encoder before words are merged: the sum of the last hidden layers of ids (L,), no padding, (L, H)."""
    name = "text_encoder.model"

    def linear(part, x):
        return x @ weights[f"{name}.{part}.weight"].T + weights[f"{name}.{part}.bias"]

    def norm(part, x):
        return F.layer_norm(x, x.shape[-1:], weights[f"{name}.{part}.weight"], weights[f"{name}.{part}.bias"], 1e-12)

    tables = f"{name}.embeddings"
    x = weights[f"{tables}.word_embeddings.weight"][ids] + weights[f"{tables}.token_type_embeddings.weight"][0]
    x = norm("embeddings.LayerNorm", x + weights[f"{tables}.position_embeddings.weight"][: len(ids)])
    hidden = [x]
    for layer in range(layers):
        part = f"encoder.layer.{layer}"
        query, key, value = (
            linear(f"{part}.attention.self.{each}", x).unflatten(1, (heads, -1)).transpose(0, 1)
            for each in ("query", "key", "value")
        )
        mixed = (query @ key.transpose(1, 2) / query.shape[-1] ** 0.5).softmax(-1) @ value
        mixed = linear(f"{part}.attention.output.dense", mixed.transpose(0, 1).flatten(1))
        x = norm(f"{part}.attention.output.LayerNorm", x + mixed)
        wide = F.gelu(linear(f"{part}.intermediate.dense", x))
        x = norm(f"{part}.output.LayerNorm", x + linear(f"{part}.output.dense", wide))
        hidden.append(x)
    return torch.stack(hidden[-last:]).sum(0)


def released_words(pieces, tokens):
    """aggregate_tokens: a word is a piece and the "##" pieces that follow; [SEP] ends the text and is no word."""
    words, names = [], []
    for vector, token in zip(pieces, tokens, strict=True):
        if token == "[SEP]":
            break
        if token.startswith("##"):
            words[-1], names[-1] = words[-1] + vector, names[-1] + token[2:]
        else:
            words.append(vector)
            names.append(token)
    return torch.stack(words), names
