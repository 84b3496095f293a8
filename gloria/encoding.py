"""Images and texts to vectors in batches, for whatever compares them: retrieval, zero-shot classification, an index."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from gloria.modeling import GloriaModel
from gloria.processing import GloriaProcessor


class Texts(NamedTuple):
    """Encoded texts.

    whole: (N_t, D), one vector each.
    words: (sum of W, D), packed; word 0 of each text is [CLS], where the tokenizer has it.
    lengths: (N_t,) int64, words of each, on the device of the words.
    """

    whole: Tensor
    words: Tensor
    lengths: Tensor

    @property
    def offsets(self) -> Tensor:
        """(N_t + 1,) int64: text i owns words[offsets[i] : offsets[i + 1]]."""
        return torch.nn.functional.pad(self.lengths.cumsum(0), (1, 0))


@contextmanager
def inference(model: GloriaModel) -> Iterator[None]:
    """No gradients, and the model in evaluation mode; afterwards as before."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def batches(items: Sequence[Any], size: int, what: str, progress: bool) -> Iterator[list[Any]]:
    """Consecutive items, `size` at a time, under a bar that names `what` they are."""
    starts = range(0, len(items), size)
    for start in tqdm(starts, desc=f"encoding {what}", unit="batch", disable=None if progress else True, leave=False):
        yield list(items[start : start + size])


def encode_texts(
    model: GloriaModel, processor: GloriaProcessor, texts: Sequence[str], batch_size: int, progress: bool = False
) -> Texts:
    """Encodes texts, one at least; call it within `inference`."""
    whole, words, lengths = [], [], []
    for batch in batches(texts, batch_size, "texts", progress):
        tokens = processor(text=batch).to(model.device)
        of_batch, word, length = model.get_text_features(**tokens)
        real = torch.arange(word.shape[1], device=word.device) < length[:, None]
        whole.append(of_batch)
        words.append(word[real])
        lengths.append(length)
    return Texts(torch.cat(whole), torch.cat(words), torch.cat(lengths))


def encode_images(model: GloriaModel, processor: GloriaProcessor, images: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """Vectors (B, D) of a batch of images and of their regions (B, D, H, W); call it within `inference`."""
    return model.get_image_features(processor(images=list(images))["pixel_values"].to(model.device))
