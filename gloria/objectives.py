"""Objectives: the systems that GLoRIA is compared with, as settings of the one model and of its training."""

from typing import Any

from torch import Tensor

from gloria.configuration import GloriaConfig

_GLOBAL = {"local_weight": 0.0}

# All share encoders, data and budget: what differs is how images are pooled and projected, and the loss.
OBJECTIVES: dict[str, dict[str, Any]] = {
    "gloria": {},
    "global": _GLOBAL,
    "local": {"global_weight": 0.0},
    # Weight 0.5, since the global loss is twice a weighted mean, and ConVIRT's is that mean.
    "convirt": {**_GLOBAL, "global_weight": 0.5, "global_image_weight": 0.75, "projection_layers": 2},
    "vse++": {**_GLOBAL, "global_loss": "hinge", "margin": 0.2},
    "dsve": {**_GLOBAL, "global_loss": "hinge", "margin": 0.2, "image_pooling": "selective", "pooled_regions": 15},
}
# Fields of `TrainingOptions` that an objective starts from instead. ConVIRT draws any sentence; most of them deny
# something, of which an image shows nothing, and from scratch it then hardly learns. How long a hinge counts all
# negatives is the best of a half, three quarters and all of the steps (docs/downstream.md).
OPTIONS: dict[str, dict[str, Any]] = {
    "convirt": {"text": "affirmed"},
    "vse++": {"all_negatives": 0.75},
    "dsve": {"all_negatives": 1.0},
}


def objective_fields(name: str) -> dict[str, Any]:
    """Return the fields of `GloriaConfig` that an objective sets.

    Args:
        name: "gloria", "global" or "local" (one of its two losses alone), "convirt" (Zhang et al., 2020), "vse++"
            (Faghri et al., 2018) or "dsve" (Engilberge et al., 2018).

    Raises:
        ValueError: another name.
    """
    if name not in OBJECTIVES:
        raise ValueError(f"objective is {name!r}; expected one of {', '.join(map(repr, OBJECTIVES))}")
    return dict(OBJECTIVES[name])


def is_collapsed(cosines: Tensor, config: GloriaConfig) -> bool:
    """Return whether a model with a hinge has made all images and texts nearly one vector.

    Its loss is then 2 margin N, what equal scores give, and whatever ranking is left hangs on the last digits.

    Args:
        cosines: (N_v, N_t), of images with texts, their own and others.
        config: of the model.

    Returns:
        Whether all cosines lie within one margin, so that no right text can win by it; False without a hinge.
    """
    return config.global_loss == "hinge" and (cosines.max() - cosines.min()).item() < config.margin
