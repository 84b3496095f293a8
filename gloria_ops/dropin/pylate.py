"""The late-interaction scores of PyLate (pylate/scores/colbert.py of lightonai/pylate), fused.

    from gloria_ops.dropin import pylate
    pylate.patch()  # once, before or after pylate is imported; pylate.unpatch() takes it back

    from pylate.scores import colbert_scores, colbert_kd_scores, colbert_scores_pairwise  # before
    from gloria_ops.dropin.pylate import colbert_scores, colbert_kd_scores, colbert_scores_pairwise  # after

Same names, argument order, layouts and return values. What differs: masked tokens of a document never win a maximum
(there their similarity is multiplied by 0, and 0 wins over negative ones), scores are float32 (float64 for float64), a
mask of floats must be 0 or 1, and `backend` is not read.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from gloria_ops.dropin.maxsim import maxsim_scores, own_maxsim_scores
from gloria_ops.dropin.patching import Patch
from gloria_ops.dropin.shared import COLBERT, naming

__all__ = ["colbert_kd_scores", "colbert_scores", "colbert_scores_pairwise", "patch", "unpatch"]

Embeddings = Tensor | np.ndarray | Sequence[Any]


@naming(**COLBERT)
def colbert_scores(
    queries_embeddings: Embeddings,
    documents_embeddings: Embeddings,
    queries_mask: Embeddings | None = None,
    documents_mask: Embeddings | None = None,
    backend: str | None = None,
) -> Tensor:
    """Scores of every query with every document: over the query's tokens, the sum of the best dot products.

    Args:
        queries_embeddings: (Q, T, D), floating; a tensor, an array, or a list of items of one length.
        documents_embeddings: (N, L, D), likewise.
        queries_mask: (Q, T) bool, integers or floats, 1 = real. Default: all.
        documents_mask: (N, L), the same.
        backend: not read.

    Returns:
        (Q, N), float32 (float64 for float64). An item without a real token scores 0, as there.

    Raises:
        TypeError, ValueError: an argument that does not fit, named with its value and the fix.
    """
    given = (queries_embeddings, documents_embeddings, queries_mask, documents_mask)
    return maxsim_scores(*map(_tensor, given), reduction="sum", empty=0.0)


@naming(**COLBERT)
def colbert_kd_scores(
    queries_embeddings: Embeddings,
    documents_embeddings: Embeddings,
    queries_mask: Embeddings | None = None,
    documents_mask: Embeddings | None = None,
    backend: str | None = None,
) -> Tensor:
    """Scores of each query with documents of its own: (Q, N), documents being (Q, N, L, D); else `colbert_scores`."""
    given = (queries_embeddings, documents_embeddings, queries_mask, documents_mask)
    return own_maxsim_scores(*map(_tensor, given), reduction="sum", empty=0.0)


@naming(**COLBERT)
def colbert_scores_pairwise(
    queries_embeddings: Embeddings, documents_embeddings: Embeddings, backend: str | None = None
) -> Tensor:
    """Scores of query i with document i, (Q,).

    Args:
        queries_embeddings: (Q, T, D), or a list of (T_i, D), tensors or arrays.
        documents_embeddings: (Q, L, D), or a list of (L_i, D).
        backend: not read.
    """
    queries, queries_mask = _padded(queries_embeddings)
    documents, documents_mask = _padded(documents_embeddings)
    return own_maxsim_scores(
        queries, documents[:, None], queries_mask, documents_mask[:, None], reduction="sum", empty=0.0
    )[:, 0]


def _tensor(given: Any) -> Any:
    if isinstance(given, Sequence):
        return torch.stack([torch.as_tensor(each) for each in given])
    return given if given is None else torch.as_tensor(given)


def _padded(given: Any) -> tuple[Tensor, Tensor]:
    """Items of different lengths, and which rows are theirs."""
    items = [torch.as_tensor(each) for each in given]
    real = [torch.ones(len(each), dtype=torch.bool, device=each.device) for each in items]
    return pad_sequence(items, batch_first=True), pad_sequence(real, batch_first=True)


_PATCH = Patch(
    "pylate",
    ("1.6.0",),
    {
        "pylate.scores.colbert": {
            "colbert_scores": colbert_scores,
            "colbert_kd_scores": colbert_kd_scores,
            "colbert_scores_pairwise": colbert_scores_pairwise,
        }
    },
)


def patch() -> None:
    """Let pylate's losses, ranking and evaluation call these functions.

    Raises:
        ImportError: pylate is missing, or of a version that this was not tested with.
    """
    _PATCH.patch()


def unpatch() -> None:
    """Undo `patch`."""
    _PATCH.unpatch()
