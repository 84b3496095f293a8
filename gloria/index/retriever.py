"""Retriever: finds the items of an index for a text or an image, with the model that made the index."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from gloria.data import Row
from gloria.embeddings import Embeddings
from gloria.encoding import batches, check_text, encode_images, encode_texts, inference
from gloria.fingerprint import model_fingerprint, preprocessing_fingerprint
from gloria.images import is_single_image
from gloria.index.search import search
from gloria.index.store import EmbeddingIndex
from gloria.modeling import GloriaModel
from gloria.processing import GloriaProcessor
from gloria.retrieval import By
from gloria_ops import TopK


class Hit(NamedTuple):
    """Holds a found item: its score, its number in the index, and its row."""

    score: float
    item: int
    row: Row


class Retriever:
    """Finds images of an index for texts, or texts of an index for images.

    Args:
        model: model that made the index; put into evaluation mode while it works.
        processor: processor of the same run.
        index: index of images or of texts.
        batch_size: queries encoded and searched at once; an exact search reads the index once for each batch.

    Raises:
        ValueError: an index of another model or preprocessing; `batch_size` below 1.
    """

    def __init__(
        self, model: GloriaModel, processor: GloriaProcessor, index: EmbeddingIndex, batch_size: int = 32
    ) -> None:
        index.manifest.check_maker(model_fingerprint(model), preprocessing_fingerprint(processor))
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; expected at least 1")
        self.model, self.processor, self.index, self.batch_size = model, processor, index, batch_size

    @classmethod
    def from_pretrained(cls, run: str | Path, index: str | Path, **options: Any) -> "Retriever":
        """Make a retriever of a run folder, on the CPU, and an index's folder; `options` are those of the class."""
        model, processor = GloriaModel.from_pretrained(run), GloriaProcessor.from_pretrained(run)
        return cls(model, processor, EmbeddingIndex(index), **options)

    def __call__(
        self, queries: Any, k: int = 10, *, by: By = "both", candidates: int | None = None
    ) -> list[Hit] | list[list[Hit]]:
        """Search for one query or several.

        Args:
            queries: texts for an index of images; images, as `GloriaProcessor` takes them, for an index of texts.
            k: number of items to find for each; at most the size of the index.
            by, candidates: as in `gloria.index.search`.

        Returns:
            Hits, best first; a list of such lists for several queries.

        Raises:
            TypeError: a text instead of an image, or the reverse.
            ValueError: as `gloria.index.search`; an empty text; an unreadable image.
        """
        one = isinstance(queries, str) if self.index.manifest.of == "images" else is_single_image(queries)
        found = self.search([queries] if one else list(queries), min(k, len(self.index)), by=by, candidates=candidates)
        hits = []
        for scores, numbers in zip(found.scores.tolist(), found.indices.tolist(), strict=True):
            real = [number for number in numbers if number >= 0]
            rows = self.index.rows(real)
            hits.append([Hit(*each) for each in zip(scores[: len(real)], real, rows, strict=True)])
        return hits[0] if one else hits

    def search(
        self,
        queries: Sequence[Any],
        k: int,
        *,
        by: By = "both",
        candidates: int | None = None,
        progress: bool = False,
    ) -> TopK:
        """Return scores and numbers of the k best items, (Q, k) each on the CPU; see `gloria.index.search`."""
        score = self.model.learned_score
        found = [
            search(self.index, encoded, k, by=by, score=score, candidates=candidates)
            for encoded in self._encode(queries, progress)
        ]
        return TopK(torch.cat([each.scores.cpu() for each in found]), torch.cat([each.indices.cpu() for each in found]))

    def _encode(self, queries: Sequence[Any], progress: bool) -> Iterator[Embeddings]:
        if not len(queries):
            raise ValueError("queries is empty; expected one or more")
        for batch in batches(queries, self.batch_size, "queries", progress):
            # No yield inside: a search that raises would leave gradients switched off.
            with inference(self.model):
                if self.index.manifest.of == "images":
                    for text in batch:
                        check_text("a query", text)
                    encoded = encode_texts(self.model, self.processor, batch, self.batch_size)
                else:
                    encoded = encode_images(self.model, self.processor, batch)
            yield encoded
