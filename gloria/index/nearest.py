"""Finds candidates, the first stage of a search in two stages, with FAISS over the item embeddings of an index."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gloria.index.manifest import File, Manifest
from gloria.index.store import EmbeddingIndex
from gloria.lock import only_writer

FILE = "item_embeds.faiss"
# FAISS trains a cell on at most 256 vectors; this many serve 1024 cells.
MOST_TO_TRAIN_ON = 2**18
# Share of an inverted file's cells that a query visits: FAISS's default, one cell, misses most near items.
VISITED_SHARE = 1 / 16


def build_nearest(index: EmbeddingIndex, factory: str = "Flat") -> EmbeddingIndex:
    """Make a FAISS index of the item embeddings, by their cosine, and add it to the manifest.

    Args:
        index: a complete index.
        factory: argument of FAISS's index_factory. "Flat", the default, compares all items in float32 and misses none:
            0.15 GFLOP a query at 100,000 items of D = 768. "IVF1024,Flat" or "HNSW32" suit millions of items. A
            quantizer such as "IVF4096,PQ64" helps if the embeddings do not fit in memory, where FAISS holds them.

    Returns:
        The index, opened again.

    Raises:
        ValueError: FAISS is missing, does not know the factory, or cannot train it on so few items; another process
            writes into the folder of the index, or has done so since it was opened.
        DiskFullError: no space is left; the index is unchanged.
    """
    faiss = _import_faiss()
    try:
        made = faiss.index_factory(index.manifest.width, factory, faiss.METRIC_INNER_PRODUCT)
        if not made.is_trained:
            made.train(_training_sample(index).numpy())
        for shard in index.shards:
            made.add(_unit_length(shard.item_embeds).numpy())
    except RuntimeError as error:
        raise ValueError(
            f"factory is {factory!r}, which FAISS refuses for {len(index)} vectors of {index.manifest.width}: {error}"
        ) from error
    with only_writer(index.folder):
        if Manifest.read(index.folder) != index.manifest:
            raise ValueError(f"{index.folder} has changed since it was opened; open it again")
        file = File.written(index.folder, FILE, len(index), lambda path: faiss.write_index(made, str(path)))
        replace(index.manifest, nearest=file, factory=factory).write(index.folder)
    return EmbeddingIndex(index.folder, verify=False)


def nearest(index: EmbeddingIndex, query_embeds: Tensor, count: int) -> Tensor:
    """Return the numbers (Q, count) of the items with the best cosines to each query, -1 = none."""
    _, numbers = _faiss_index_of(index).search(_unit_length(query_embeds.cpu()).numpy(), count)
    return torch.from_numpy(numbers)


def _faiss_index_of(index: EmbeddingIndex) -> Any:
    file = index.manifest.nearest
    if file is None:
        raise ValueError(
            f"{index.folder} has no FAISS index of its items, which candidates are looked up in; make one: "
            "`gloria index build ... --faiss Flat`"
        )
    if index.nearest is None:
        faiss = _import_faiss()
        try:
            index.nearest = faiss.read_index(str(index.folder / file.name))
        except RuntimeError as error:
            raise ValueError(f"{index.folder / file.name} is damaged ({error}); make it again") from error
        if (index.nearest.ntotal, index.nearest.d) != (len(index), index.manifest.width):
            raise ValueError(
                f"{index.folder / file.name} has {index.nearest.ntotal} vectors of {index.nearest.d}; expected "
                f"{len(index)} of {index.manifest.width}: make it again"
            )
        cells = faiss.try_extract_index_ivf(index.nearest)
        if cells is not None:
            cells.nprobe = max(1, round(VISITED_SHARE * cells.nlist))
    return index.nearest


def _unit_length(embeds: Tensor) -> Tensor:
    return torch.nn.functional.normalize(embeds.float(), dim=1)


def _training_sample(index: EmbeddingIndex) -> Tensor:
    """Return evenly spaced items, to cover every part of a sorted table."""
    count = min(len(index), MOST_TO_TRAIN_ON)
    numbers = torch.arange(count) * len(index) // count
    bounds = torch.searchsorted(numbers, torch.tensor([*index.firsts, len(index)])).tolist()
    chosen = [numbers[begin:end] - first for first, begin, end in zip(index.firsts, bounds, bounds[1:], strict=False)]
    return _unit_length(torch.cat([shard.item_embeds[some] for shard, some in zip(index.shards, chosen, strict=True)]))


def _import_faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ValueError(
            f"a search by candidates needs FAISS, which cannot be imported ({error}): pip install '.[faiss]' in the "
            "clone; without candidates every item is scored"
        ) from error
    return faiss
