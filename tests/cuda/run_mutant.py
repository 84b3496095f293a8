"""`python run_mutant.py MODULE sm_90a sm_80`: whether a build of the emulated kernels is right, for each of these.

Prints what is wrong and exits 1.
"""

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import emulation
import torch
from cuda_checks import LONG, SCORES, assert_as_accurate, assert_gradients_as_accurate, scores
from problems import problem

from gloria_ops import LocalScore
from gloria_ops.backends.cuda import device

CASES = (
    (problem("random", 2, 5, 140, 40, 40, seed=1), ("released", "none, cosine", "paper")),
    (problem("random", 2, 5, 250, 100, 200, seed=4), ("none, cosine", "paper")),
    (problem("random", 1, 2, 20, 200, 16, seed=2), ("released", "softmax, dot")),
    (problem("random", 1, 2, 390, 12, 232, seed=3), ("none, cosine", "paper")),
    (problem("random", 1, 2, 361, 12, 208, seed=6), ("released", "a scale that needs the maximum")),
)
GRADIENTS = (
    (problem("random", 2, 5, 200, 40, 40, seed=1), ("released", "none, cosine", "a scale that needs the maximum")),
    (problem("random", 1, 2, 20, 200, 16, seed=2, magnitudes=(3, 3)), ("released",)),
    (problem("random", 1, 3, 250, 9, 24, seed=5), ("maxsim", "paper")),
    (problem("random", 1, 2, 361, 9, 208, seed=6), ("released",)),
)


def main() -> None:
    kernels = emulation.load(Path(sys.argv[1]))
    for architecture in sys.argv[2:]:
        check(kernels, hopper=architecture == "sm_90a")


def check(kernels: ModuleType, hopper: bool) -> None:
    with device.emulated_by(kernels, 2, hopper):
        # What is soon done comes first.
        kernels.set_schedule(0)
        pooled = replace(SCORES["released"], pool_mean=True)
        cancelling = problem("random", 1, 2, 49, 30, 128)
        regions = cancelling.regions - cancelling.regions.mean(1, keepdim=True)
        below = problem("random", 1, 2, 40, 12, 24)
        regions_below, words = below.regions.clone(), below.words.clone()
        regions_below[..., 0], words[0, :, 0], words[1, :, 0] = 1, 0, -200
        for given, score in (
            (cancelling._replace(regions=regions), replace(SCORES["released"], attention_scale=0.5)),
            (below._replace(regions=regions_below, words=words), pooled),
        ):
            given = given.to(torch.float16)
            assert_as_accurate(scores(given, score), given, score)
        for schedule in range(3 if LONG else 1):
            kernels.set_schedule(schedule)
            for given, names in CASES:
                given = given.to(torch.bfloat16)
                for name in names:
                    assert_as_accurate(scores(given, SCORES[name]), given, SCORES[name])
        kernels.set_schedule(0)
        for given, names in GRADIENTS:
            for name in names:
                assert_gradients_as_accurate(given.to(torch.bfloat16), SCORES[name])
        disliked = problem("random", 2, 3, 20, 6, 16)
        disliked.regions[..., 0], disliked.words[..., 0] = 1, -100
        for given, dtype, score in (
            (problem("centered", 2, 5, 49, 9, 32, seed=3), torch.float16, LocalScore(attention_scale=0.5)),
            (disliked, torch.float16, SCORES["none, cosine"]),
            # Nothing goes back through an attention that is all at one region.
            (problem("random", 2, 3, 1, 6, 16), torch.bfloat16, LocalScore(word_norm="none", attention_scale=1e3)),
        ):
            assert_gradients_as_accurate(given.to(dtype), score)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
