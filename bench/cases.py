"""The problems that are timed: shapes, presets, inputs, and the flops that count for them (ARCHITECTURE.md)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.lengths import draw_lengths
from gloria_ops import LocalScore

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
MODES = ("forward", "backward", "full")
# The paper gives no values; these are the inverses of the released scales (temp3 = 10, temp2 = 5).
PRESETS = {"released": LocalScore.released(), "paper": LocalScore.paper(tau2=0.1, tau3=0.2)}


@dataclass(frozen=True)
class Case:
    """N images with N texts: `side * side` regions an image, width D, one preset.

    Texts have the word counts of real reports, or `words_each` where that is given.
    """

    name: str
    batch: int
    side: int
    width: int
    preset: str
    words_each: int | None = None

    @property
    def regions(self) -> int:
        return self.side * self.side

    @property
    def lengths(self) -> list[int]:
        return draw_lengths(self.batch) if self.words_each is None else [self.words_each] * self.batch

    @property
    def score(self) -> LocalScore:
        return PRESETS[self.preset]

    @property
    def label(self) -> dict[str, str | int]:
        """What a row of results says of its problem."""
        shape = {"batch": self.batch, "regions": self.regions, "words": sum(self.lengths), "width": self.width}
        return {"case": self.name, "preset": self.preset, **shape}

    @property
    def affinities(self) -> int:
        """Word-region products of the whole batch, padding not counted."""
        return self.batch * self.regions * sum(self.lengths)

    def flops(self, mode: str) -> int:
        """Algorithmic flops: 2D [+ 2M for the cosine] an affinity forward, 6D [+ 4M] backward, recomputed or not."""
        gram = self.regions if self.score.similarity == "cosine" else 0
        forward, backward = 2 * self.width + 2 * gram, 6 * self.width + 4 * gram
        return self.affinities * {"forward": forward, "backward": backward, "full": forward + backward}[mode]

    def product_flops(self) -> int:
        """Flops of the bare product T Vᵀ over the same words and regions."""
        return 2 * self.width * self.affinities


# The released code's batch, the batch size of the project's own targets, a ViT-B/16 grid, and a narrow shared space.
CASES = (
    Case("released batch", batch=48, side=19, width=768, preset="released"),
    Case("released batch", batch=48, side=19, width=768, preset="paper"),
    Case("batch of 32", batch=32, side=19, width=768, preset="released"),
    Case("ViT", batch=48, side=14, width=768, preset="released"),
    Case("ViT", batch=48, side=14, width=768, preset="paper"),
    Case("small D", batch=48, side=14, width=128, preset="released"),
    Case("small D", batch=48, side=14, width=128, preset="paper"),
)
# A few phrases with small images: eager PyTorch has little to lose there, and a fused score little to save.
SMALL_PROBLEM = Case("small problem", batch=4, side=7, width=128, preset="released", words_each=8)
# The same code in a second or two, for runs without --benchmark.
SMALL_CASES = tuple(Case("quick", batch=3, side=4, width=24, preset=preset) for preset in PRESETS)


@dataclass(frozen=True)
class Inputs:
    """Regions (N, M, D), words (N, W, D) with zeros after each text, and the gradient of the scores (N, N)."""

    regions: Tensor
    words: Tensor
    lengths: list[int]
    grad_scores: Tensor

    @property
    def packed_words(self) -> Tensor:
        """(sum of W, D): the words without padding."""
        return torch.cat([text[:length] for text, length in zip(self.words, self.lengths, strict=True)])

    def to(self, dtype: torch.dtype) -> Inputs:
        """The same numbers in another dtype; the scores' gradient stays float32 unless all is float64."""
        grad_scores = self.grad_scores.to(torch.promote_types(dtype, torch.float32))
        return Inputs(self.regions.to(dtype), self.words.to(dtype), self.lengths, grad_scores)


def make_inputs(case: Case, kind: str = "random", seed: int = 0, device: str = "cpu") -> Inputs:
    """Float32 inputs of one kind; affinities of `random` have variance 1.

    - `random`: independent normal entries.
    - `correlated`: all rows share a direction, and each word mixes a region of its own image with noise, as trained
      features do.
    - `unit_norm`: rows of length 1, as models that normalise tokens give.
    """
    generator = torch.Generator(device).manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    lengths = case.lengths
    regions = normal(case.batch, case.regions, case.width)
    words = normal(case.batch, max(lengths), case.width)
    if kind == "correlated":
        shared = normal(case.width)
        matched = regions[:, torch.randint(case.regions, (max(lengths),), generator=generator, device=device)]
        regions, words = shared + 0.5 * regions, shared + 0.5 * matched + 0.25 * words
    if kind == "unit_norm":
        regions, words = (torch.nn.functional.normalize(rows, dim=-1) for rows in (regions, words))
    else:
        regions, words = regions * case.width**-0.25, words * case.width**-0.25
    present = torch.arange(max(lengths), device=device) < torch.tensor(lengths, device=device)[:, None]
    return Inputs(regions, words * present[..., None], lengths, normal(case.batch, case.batch) / math.sqrt(case.batch))
