"""The late-interaction scores of sentence_transformers (multi_vector_encoder/scoring/colbert.py), fused.

    from sentence_transformers.multi_vector_encoder.scoring import colbert_scores  # before
    from gloria_ops.dropin.sentence_transformers import colbert_scores  # after

    MultiVectorMultipleNegativesRankingLoss(model, similarity_fct=colbert_scores)  # also the cached one
    MultiVectorDistillKLDivLoss(model, similarity_fct=colbert_kd_scores)
    MultiVectorMarginMSELoss(model, similarity_fct=colbert_scores_pairwise)

Same names, argument order, layouts and return values. What differs: float64 stays float64, a mask of floats must be 0
or 1, and chunk_elements is not read: nothing of that size is kept.
"""

from functools import partial

from torch import Tensor

from gloria_ops.dropin.maxsim import maxsim_scores, own_maxsim_scores
from gloria_ops.dropin.shared import COLBERT, naming
from gloria_ops.tokens import check_layout

__all__ = [
    "colbert_kd_scores",
    "colbert_scores",
    "colbert_scores_pairwise",
    "mean_colbert_kd_scores",
    "mean_colbert_scores",
    "mean_colbert_scores_pairwise",
]

EMPTY_DOCUMENT = -1e9  # as there
EMPTY_QUERY = 0.0


@naming(**COLBERT)
def colbert_scores(
    queries_embeddings: Tensor,
    documents_embeddings: Tensor,
    queries_mask: Tensor | None = None,
    documents_mask: Tensor | None = None,
    chunk_elements: int | None = None,
    length_normalize: bool = False,
) -> Tensor:
    """Scores of every query with every document: over the query's tokens, the sum of the best dot products.

    Args:
        queries_embeddings: (Q, T, D), floating.
        documents_embeddings: (G, N, L, D), same dtype.
        queries_mask: (Q, T) bool, integers or floats, 1 = real. Default: all.
        documents_mask: (G, N, L), the same.
        chunk_elements: not read.
        length_normalize: divide by the number of real tokens of the query; without a mask, of rows that are not zero.

    Returns:
        (Q, G * N), document n of group g in column g * N + n; float32 (float64 for float64). A query without a real
        token scores 0, a document without one -1e9, as there.

    Raises:
        TypeError, ValueError: an argument that does not fit, named with its value and the fix.
    """
    check_layout("documents_embeddings", documents_embeddings, "(G, N, L, D)", ": documents_embeddings[:, None]")
    mask = documents_mask.flatten(0, 1) if isinstance(documents_mask, Tensor) else documents_mask
    documents = documents_embeddings.flatten(0, 1)
    scores = maxsim_scores(queries_embeddings, documents, queries_mask, mask, reduction="sum", empty=EMPTY_QUERY)
    return _finished(scores, queries_embeddings, queries_mask, mask, length_normalize)


@naming(**COLBERT)
def colbert_kd_scores(
    queries_embeddings: Tensor,
    documents_embeddings: Tensor,
    queries_mask: Tensor | None = None,
    documents_mask: Tensor | None = None,
    chunk_elements: int | None = None,
    length_normalize: bool = False,
) -> Tensor:
    """Scores of each query with documents of its own: (Q, N), documents being (Q, N, L, D); else `colbert_scores`."""
    given = (queries_embeddings, documents_embeddings, queries_mask, documents_mask)
    scores = own_maxsim_scores(*given, reduction="sum", empty=EMPTY_QUERY)
    return _finished(scores, queries_embeddings, queries_mask, documents_mask, length_normalize)


def colbert_scores_pairwise(
    queries_embeddings: Tensor,
    documents_embeddings: Tensor,
    queries_mask: Tensor | None = None,
    documents_mask: Tensor | None = None,
    chunk_elements: int | None = None,
    length_normalize: bool = False,
) -> Tensor:
    """Scores of query i with document i: (Q,), documents being (Q, L, D); else `colbert_scores`."""
    check_layout("documents_embeddings", documents_embeddings, "(Q, L, D)")
    mask = documents_mask[:, None] if isinstance(documents_mask, Tensor) else documents_mask
    return colbert_kd_scores(
        queries_embeddings, documents_embeddings[:, None], queries_mask, mask, chunk_elements, length_normalize
    )[:, 0]


mean_colbert_scores = partial(colbert_scores, length_normalize=True)
mean_colbert_kd_scores = partial(colbert_kd_scores, length_normalize=True)
mean_colbert_scores_pairwise = partial(colbert_scores_pairwise, length_normalize=True)


def _finished(
    scores: Tensor, queries: Tensor, queries_mask: Tensor | None, documents_mask: Tensor | None, length_normalize: bool
) -> Tensor:
    """Scores (Q, N) with what documents without a token have, over the number of tokens of their query if asked."""
    if documents_mask is not None:
        scores = scores.masked_fill((documents_mask == 0).all(-1), EMPTY_DOCUMENT)
    if not length_normalize:
        return scores
    real = queries if queries_mask is None else queries_mask[:, :, None]  # without a mask, rows of zeros are padding
    return scores / (real != 0).any(-1).sum(1, keepdim=True).clamp(min=1)
