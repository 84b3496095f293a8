"""The late-interaction scores of ColPali's engine (colpali_engine/utils/maxsim.py of illuin-tech/colpali), fused.

    from gloria_ops.dropin import colpali_engine
    colpali_engine.patch()  # once, before or after colpali_engine is imported; colpali_engine.unpatch() takes it back

    from colpali_engine.utils.maxsim import maxsim_inbatch, maxsim_kd  # before
    from gloria_ops.dropin.colpali_engine import maxsim_inbatch, maxsim_kd  # after

Same names, argument order, layouts and return values. What differs: scores are float32 (float64 for float64), and
COLPALI_SCORES_BACKEND is not read. As there, nothing is masked: padding is rows of zeros, whose similarity of 0
wins over negative ones. `use_smooth_max` goes its own way there, past these functions.
"""

from torch import Tensor

from gloria_ops.dropin.maxsim import maxsim_scores, own_maxsim_scores
from gloria_ops.dropin.patching import Patch
from gloria_ops.dropin.shared import naming

__all__ = ["maxsim_inbatch", "maxsim_kd", "patch", "unpatch"]


@naming(text="query", image="doc")
def maxsim_inbatch(query: Tensor, doc: Tensor) -> Tensor:
    """Scores (Q, N) of every query (Q, T, D) with every document (N, L, D), same dtype: the sum over all T tokens.

    Raises:
        TypeError, ValueError: an argument that does not fit, named with its value and the fix.
    """
    return maxsim_scores(query, doc, reduction="sum")


@naming(text="query", images="doc")
def maxsim_kd(query: Tensor, doc: Tensor) -> Tensor:
    """Scores (Q, N) of each query (Q, T, D) with documents of its own (Q, N, L, D); else `maxsim_inbatch`."""
    return own_maxsim_scores(query, doc, reduction="sum")


_PATCH = Patch(
    "colpali-engine",
    ("0.3.18",),
    {"colpali_engine.utils.maxsim": {"maxsim_inbatch": maxsim_inbatch, "maxsim_kd": maxsim_kd}},
)


def patch() -> None:
    """Let colpali_engine's losses and `score_multi_vector` call these functions.

    Raises:
        ImportError: colpali_engine is missing, or of a version that this was not tested with.
    """
    _PATCH.patch()


def unpatch() -> None:
    """Undo `patch`."""
    _PATCH.unpatch()
