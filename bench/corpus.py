"""Times searches of an index of texts on disk: of all of it, in two stages, and the second stage alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from bench.lengths import draw_lengths
from bench.timing import Sampler, interleave, sample_step
from gloria.data import Row as TableRow
from gloria.embeddings import Embeddings
from gloria.index import EmbeddingIndex, IndexWriter, Manifest, build_nearest, rerank, search
from gloria_ops import LocalScore, TopK

Row = dict[str, Any]
Key = tuple[str, int]  # (search, queries)

DTYPE = torch.float16
BEST = 10
CANDIDATES = 1000
AT_ONCE = 5000  # texts that are drawn and written together
ALLOWANCE = 10.0  # seconds of one search with one number of queries
SCORE = LocalScore.released()


@dataclass(frozen=True)
class Corpus:
    """Texts with the word counts of real reports, and images of `regions` regions that are looked for."""

    texts: int
    width: int
    regions: int


CORPORA = (Corpus(100_000, 128, 196), Corpus(4_000, 768, 361))
SMALL_CORPUS = Corpus(60, 24, 9)


def write_corpus(corpus: Corpus, folder: Path) -> EmbeddingIndex:
    """An index of random words, whose affinities with the regions of `make_images` have variance 1."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor(draw_lengths(corpus.texts))
    writer = IndexWriter(folder, Manifest("texts", corpus.width, str(DTYPE).removeprefix("torch."), "none", "none"))
    for some in lengths.split(AT_ONCE):
        offsets = torch.nn.functional.pad(some.cumsum(0), (1, 0))
        words = torch.randn(int(offsets[-1]), corpus.width, generator=generator) * corpus.width**-0.25
        text_embeds = torch.randn(len(some), corpus.width, generator=generator)
        writer.add(Embeddings(text_embeds, words.to(DTYPE), offsets), [TableRow(0, None, "")] * len(some))
        writer.write(0, "")
    return build_nearest(EmbeddingIndex(folder, verify=False))


def make_images(corpus: Corpus, count: int) -> Embeddings:
    """Encoded images, in the dtype of the index."""
    generator = torch.Generator().manual_seed(1)
    regions = torch.randn(count * corpus.regions, corpus.width, generator=generator) * corpus.width**-0.25
    image_embeds = torch.randn(count, corpus.width, generator=generator)
    return Embeddings(image_embeds, regions.to(DTYPE), corpus.regions * torch.arange(count + 1))


def searches(corpus: Corpus, index: EmbeddingIndex, count: int) -> dict[str, tuple[int, Callable[[], TopK]]]:
    """By name, how many texts a query is scored with, and the search for `count` images; all texts for one only."""
    images = make_images(corpus, count)
    most = min(CANDIDATES, len(index))
    generator = torch.Generator().manual_seed(2)
    drawn = torch.stack([torch.randperm(len(index), generator=generator)[:most] for _ in range(count)])
    find = partial(search, index, images, BEST, score=SCORE)
    built: dict[str, tuple[int, Callable[[], TopK]]] = {
        "two stages": (most, partial(find, by="both", candidates=most)),
        "re-rank": (most, partial(rerank, index, images, drawn, BEST, by="both", score=SCORE)),
    }
    if count == 1:  # with more it takes as many times longer, and a turn is seconds already
        built["all, local"] = len(index), partial(find, by="local")
        built["all, both"] = len(index), partial(find, by="both")
    return built


def measure(corpus: Corpus, queries: tuple[int, ...], folder: Path, *, rounds: int) -> list[Row]:
    """A row for each search and number of queries, all from the same rounds."""
    index = write_corpus(corpus, folder)
    found = {(name, count): each for count in queries for name, each in searches(corpus, index, count).items()}
    samplers: dict[Key, Sampler] = {key: partial(sample_step, step) for key, (_, step) in found.items()}
    samples = interleave(
        samplers, rounds=rounds, allowance=lambda key: ALLOWANCE, warm_up=lambda key: key[0] == "two stages"
    )
    label = {
        "texts": corpus.texts,
        "words": sum(len(shard.part_embeds) for shard in index.shards),
        "width": corpus.width,
        "regions": corpus.regions,
        "dtype": index.manifest.dtype,
        "bytes": sum(file.size for file in index.manifest.shards),
    }
    rows = []
    for (name, count), times in samples.items():
        seconds, scored = median(times["forward"]), found[name, count][0]
        row = label | {"search": name, "queries": count, "scored": scored, "ms": 1e3 * seconds}
        row |= {"pairs_per_second": count * scored / seconds, "rounds_ms": [1e3 * each for each in times["forward"]]}
        rows.append(row)
    return rows
