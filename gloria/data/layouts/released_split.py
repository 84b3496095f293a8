"""The split of the released GLoRIA: 70 % to train on, 15 % each to validate and to test on, drawn with the seed 0."""

import math
from collections.abc import Iterable

import numpy as np


def released_split(names: Iterable[str]) -> dict[str, str]:
    """Return the part of each name: "train", "validation" or "test".

    The released code sorts the names and calls scikit-learn's train_test_split twice with random_state=0, which is this
    permutation of numpy's frozen generator: a test part, rounded up, from its front.

    Args:
        names: of images or patients, in any order; one that occurs again counts once.
    """
    order = np.array(sorted(set(names)), dtype=object)
    parts = dict.fromkeys(order.tolist(), "train")
    held_out = _front(order, 0.3)
    parts |= dict.fromkeys(held_out, "test")
    return parts | dict.fromkeys(_front(held_out, 0.5), "validation")


def _front(names: np.ndarray, share: float) -> np.ndarray:
    return names[np.random.RandomState(0).permutation(len(names))[: math.ceil(share * len(names))]]
