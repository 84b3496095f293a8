"""The problems and scores that the tests of the ops are run on."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from gloria_ops import LocalScore

PRESETS = {
    "released": LocalScore.released(),
    "released_mean": replace(LocalScore.released(), pool_mean=True),
    "paper": LocalScore.paper(tau2=0.2, tau3=0.5),
    "damsm": LocalScore.damsm(),
    "scan_t2i": LocalScore.scan_t2i(),
    "scan_i2t": LocalScore.scan_i2t(),
    "scan_t2i_max": LocalScore.scan_t2i(pool="max"),
    "maxsim": LocalScore.maxsim(),
}

POOLS = [("logsumexp", mean, divide) for mean, divide in product((False, True), repeat=2)] + [
    (pool, False, False) for pool in ("max", "mean", "sum")
]

EVERY_POOL = [*POOLS, ("softmax", False, False)]

EVERY_SCORE = {
    f"{norm}-{similarity}-{scale:g}-{pool}{'-mean' * mean}{'-divide' * divide}": LocalScore(
        word_norm=norm,
        similarity=similarity,
        attention_scale=scale,
        pool=pool,
        pool_mean=mean,
        pool_divide=divide,
        word_scale=3.0,
    )
    for norm, similarity, scale, (pool, mean, divide) in product(
        ("none", "softmax", "clipped_l2"), ("dot", "cosine"), (4.0, float("inf")), EVERY_POOL
    )
} | {
    f"smooth_max-{scale:g}-{pool}{'-mean' * mean}{'-divide' * divide}": LocalScore(
        word_norm="none",
        similarity="smooth_max",
        attention_scale=scale,
        pool=pool,
        pool_mean=mean,
        pool_divide=divide,
        word_scale=3.0,
    )
    for scale, (pool, mean, divide) in [*product((4.0,), EVERY_POOL), (float("inf"), POOLS[0])]
}

# What comes as tensors: each of them in scores that read it.
LEARNED_SCORES = {
    "released": PRESETS["released"],
    "released_mean": PRESETS["released_mean"],
    "paper_mean": replace(PRESETS["paper"], pool_mean=True),
    "scan_t2i": PRESETS["scan_t2i"],
    "scan_i2t": PRESETS["scan_i2t"],
    "softmax_pool": replace(PRESETS["released"], pool="softmax"),
    "smooth_max": EVERY_SCORE["smooth_max-4-softmax"],
    "smooth_max_sum": EVERY_SCORE["smooth_max-4-sum"],
    "maxsim": PRESETS["maxsim"],
    "maxsim_mean": replace(PRESETS["maxsim"], pool="mean"),
    "hard_cosine": replace(PRESETS["released"], attention_scale=float("inf")),
}

# In the reference only: the other ways of SCAN to normalize over the words.
SCAN_NORMS = {norm: LocalScore(word_norm=norm, word_scale=3.0) for norm in ("l2", "l1", "clipped_l1", "clipped")}


class Problem(NamedTuple):
    """Padded float64 inputs with lengths, and a cotangent of the scores."""

    regions: Tensor
    words: Tensor
    region_lengths: Tensor
    word_lengths: Tensor
    cotangent: Tensor
    learned: Mapping[str, Tensor] = {}

    def to(self, dtype: torch.dtype) -> "Problem":
        """Rounded to `dtype`, the cotangent and scales excepted."""
        learned = {name: value.to(dtype) if value.dim() else value for name, value in self.learned.items()}
        return self._replace(regions=self.regions.to(dtype), words=self.words.to(dtype), learned=learned)

    def learning(self, score: LocalScore, seed: int = 0) -> "Problem":
        """With everything that this score reads as tensors: scales of its own size, weights with some zeros."""
        generator = torch.Generator().manual_seed(seed)
        learned = {}
        if score.direction == "t2i" and score.pool != "max":
            weights = torch.rand(self.words.shape[:2], generator=generator, dtype=torch.float64)
            weights[:, 1:] *= torch.rand(weights[:, 1:].shape, generator=generator) > 0.2
            learned["word_weights"] = weights + torch.eye(*weights.shape, dtype=torch.float64)[:1] / 4
        if score.attention_scale < float("inf"):
            learned["attention_scale"] = torch.tensor(score.attention_scale).double()
        if score.pool in ("logsumexp", "softmax"):
            learned["word_scale"] = torch.tensor(score.word_scale).double()
        return self._replace(learned=learned)

    @property
    def lengths(self) -> dict[str, Tensor]:
        return {"region_lengths": self.region_lengths, "word_lengths": self.word_lengths}


# Kinds whose scores or gradients are small differences of large numbers: what rounding leaves is then greater, and more
# a matter of luck, in kernels and in eager PyTorch alike.
DELICATE = ("centered", "steep", "nearly_equal", "nearly_opposite", "uneven")
KINDS = ("random", "correlated", "unit", *DELICATE)


def problem(
    kind: str,
    images: int,
    texts: int,
    most_regions: int,
    most_words: int,
    width: int,
    seed: int = 0,
    magnitudes: tuple[float, float] = (1.0, 1.0),
) -> Problem:
    """Return a ragged problem whose first image and first text are full.

    Args:
        kind: "random" = independent normals with affinities of variance 1; "correlated" = all regions and words share
            half of their variance; "unit" = vectors of length 1; "centered" = the regions of an image have the mean 0,
            as InstanceNorm leaves them, and words a tenth of the random ones' length; "steep" = affinities of 1e4 and
            more; "nearly_equal" = all regions and words have cosines of about 0.9999; "nearly_opposite" = every second
            region is the one before it times a number within 1e-3 of -1; "uneven" = regions and words a thousand times
            shorter to a thousand times longer than the random ones, and every fifth zero.
        magnitudes: factors of the regions and of the words.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def lengths(count: int, most: int) -> Tensor:
        drawn = torch.randint(1, most + 1, (count,), generator=generator)
        drawn[0] = most
        return drawn

    regions, words = normal(images, most_regions, width), normal(texts, most_words, width)
    if kind == "correlated":
        shared = normal(width)
        regions, words = (regions + shared) * 0.5**0.5, (words + shared) * 0.5**0.5
    if kind == "nearly_equal":
        shared = normal(width)
        regions, words = regions / 100 + shared, words / 100 + shared
    if kind == "nearly_opposite":
        pairs = most_regions // 2
        regions[:, 1 : 2 * pairs : 2] = regions[:, 0 : 2 * pairs : 2] * (normal(images, pairs, 1) * 1e-3 - 1)
    if kind == "unit":
        regions, words = (torch.nn.functional.normalize(each, dim=-1) for each in (regions, words))
    else:
        regions, words = regions * width**-0.25, words * width**-0.25
    region_lengths, word_lengths = lengths(images, most_regions), lengths(texts, most_words)
    if kind == "centered":
        real = (torch.arange(most_regions) < region_lengths[:, None])[:, :, None]
        regions = regions - (regions * real).sum(dim=1, keepdim=True) / region_lengths[:, None, None]
        words = words / 10
    if kind == "steep":
        regions, words = regions * 100, words * 100
    if kind == "uneven":
        regions, words = (
            rows * 10 ** (normal(*rows.shape[:2], 1).clamp(-1, 1) * 3) * (torch.arange(rows.shape[1]) % 5 != 3)[:, None]
            for rows in (regions, words)
        )
    regions, words = regions * magnitudes[0], words * magnitudes[1]
    return Problem(regions, words, region_lengths, word_lengths, normal(images, texts))
