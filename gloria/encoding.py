"""Encodes images and texts in batches, for retrieval, zero-shot classification and indexes."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from gloria.embeddings import Embeddings
from gloria.modeling import GloriaModel
from gloria.processing import GloriaProcessor


@contextmanager
def inference(model: GloriaModel) -> Iterator[None]:
    """Switch gradients off and put the model into evaluation mode; restore its mode at the end."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def batches(items: Sequence[Any], size: int, what: str, progress: bool) -> Iterator[list[Any]]:
    """Yield `size` consecutive items at a time, under a progress bar that says `what` they are."""
    starts = range(0, len(items), size)
    for start in tqdm(starts, desc=f"encoding {what}", unit="batch", disable=None if progress else True, leave=False):
        yield list(items[start : start + size])


def check_text(what: str, text: Any) -> None:
    """Raise ValueError if a text is empty or blank: the model would read [CLS] alone; `what` begins the message."""
    if isinstance(text, str) and not text.strip():
        raise ValueError(f"{what} is empty; expected some words")


def encode_texts(
    model: GloriaModel, processor: GloriaProcessor, texts: Sequence[str], batch_size: int, progress: bool = False
) -> Embeddings:
    """Encode at least one text; call this inside `inference`."""
    encoded = []
    for batch in batches(texts, batch_size, "texts", progress):
        text_embeds, word_embeds, lengths = model.get_text_features(**processor(text=batch).to(model.device))
        real = torch.arange(word_embeds.shape[1], device=lengths.device) < lengths[:, None]
        encoded.append(Embeddings.packed(text_embeds, word_embeds[real], lengths))
    return Embeddings.concatenate(encoded)


def encode_images(model: GloriaModel, processor: GloriaProcessor, images: Sequence[Any]) -> Embeddings:
    """Encode a batch of images; call this inside `inference`."""
    return encode_pixels(model, processor(images=list(images))["pixel_values"])


def encode_pixels(model: GloriaModel, pixel_values: Tensor) -> Embeddings:
    """Encode a batch of the processor's pixel values, (B, 3, H, W); call this inside `inference`."""
    image_embeds, region_embeds = model.get_image_features(pixel_values.to(model.device))
    regions = region_embeds.flatten(2).transpose(1, 2)
    lengths = torch.full((regions.shape[0],), regions.shape[1], device=regions.device)
    return Embeddings.packed(image_embeds, regions.flatten(0, 1), lengths)
