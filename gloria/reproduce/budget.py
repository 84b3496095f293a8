"""Budget: how much work a suite does, the same for every system."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """Sizes of the models, the data and the training, which every system shares.

    Attributes:
        seeds: runs of each system; a seed is of the weights, the order and the labels drawn.
        pixels: side of the square that the models see.
        steps: optimizer steps of pre-training, to the next whole pass.
        batch_size: pairs in a batch.
        learning_rate: of pre-training; the one search was for the small model, and all objectives share what it found.
        phantoms: of the phantom suite, drawings to train on; a tenth as many each are drawn to validate and to segment.
        of_each: images of each class in 5x200.
        fractions: of the labels that classifiers are trained on.
        mask_fractions: how many of the suite's fractions of the masks, the smallest first.
        mask_steps: optimizer steps of a segmenter.
    """

    seeds: int = 4
    pixels: int = 160
    steps: int = 800
    batch_size: int = 32
    learning_rate: float = 1e-3
    phantoms: int = 1600
    of_each: int = 200
    fractions: tuple[float, ...] = (0.01, 0.1, 1.0)
    mask_fractions: int = 3
    mask_steps: int = 100


FULL = Budget()
QUICK = Budget(seeds=1, pixels=112, steps=400, of_each=100, mask_fractions=1)
