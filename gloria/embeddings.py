"""Embeddings: encoded images or texts in packed form, the same form from encoding to the index."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Embeddings(NamedTuple):
    """Holds N encoded images or texts.

    item_embeds: (N, D), not normalized: image_embeds or text_embeds.
    part_embeds: (sum of L, D), packed: region_embeds in reading order, or word_embeds. Word 0 of a text is [CLS], where
        the tokenizer has it.
    offsets: (N + 1,) int64: item n owns part_embeds[offsets[n] : offsets[n + 1]].
    """

    item_embeds: Tensor
    part_embeds: Tensor
    offsets: Tensor

    @classmethod
    def packed(cls, item_embeds: Tensor, part_embeds: Tensor, lengths: Tensor) -> "Embeddings":
        """Pack items whose parts stand one after another, with the given lengths, (N,) int64."""
        return cls(item_embeds, part_embeds, torch.nn.functional.pad(lengths.cumsum(0), (1, 0)))

    @classmethod
    def concatenate(cls, some: Sequence["Embeddings"]) -> "Embeddings":
        """Join several embeddings in the given order."""
        item_embeds, part_embeds, lengths = zip(*((each[0], each[1], each.lengths) for each in some), strict=True)
        return cls.packed(torch.cat(item_embeds), torch.cat(part_embeds), torch.cat(lengths))

    @property
    def lengths(self) -> Tensor:
        """Number of parts of each item, (N,) int64."""
        return self.offsets.diff()

    def select(self, numbers: Tensor) -> "Embeddings":
        """Return copies of the items with these numbers, (n,) int64."""
        lengths = self.lengths[numbers]
        ends = lengths.cumsum(0)
        shifts = torch.repeat_interleave(self.offsets[numbers] - ends + lengths, lengths)
        return self.packed(
            self.item_embeds[numbers],
            self.part_embeds[shifts + torch.arange(len(shifts), device=shifts.device)],
            lengths,
        )

    def singly(self) -> Iterator["Embeddings"]:
        """Yield the items one at a time, as views."""
        parts = self.part_embeds.split(self.lengths.tolist())
        for item_embeds, part_embeds in zip(self.item_embeds, parts, strict=True):
            yield Embeddings(item_embeds[None], part_embeds, self.offsets.new_tensor([0, len(part_embeds)]))
