"""Builds an index of encoded images or texts on disk, and searches it a shard at a time."""

from gloria.index.build import build_index
from gloria.index.evaluate import Evaluation, evaluate, format_evaluation
from gloria.index.manifest import Manifest
from gloria.index.nearest import build_nearest
from gloria.index.retriever import Hit, Retriever
from gloria.index.search import rerank, search
from gloria.index.store import EmbeddingIndex, IndexWriter

__all__ = [
    "EmbeddingIndex",
    "Evaluation",
    "Hit",
    "IndexWriter",
    "Manifest",
    "Retriever",
    "build_index",
    "build_nearest",
    "evaluate",
    "format_evaluation",
    "rerank",
    "search",
]
