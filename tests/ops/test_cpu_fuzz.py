"""The fused CPU kernels against float64 on whatever hypothesis draws: knobs, layouts, dtypes, sizes, engines, threads.

`make test` draws a few dozen cases, always the same; `make fuzz` thousands, new ones each time.
"""

import math
from collections.abc import Iterator

import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from kernel_checks import Results, assert_as_accurate, eager, names_of, threads
from problems import KINDS, Problem, problem
from tolerances import ANY_SHAPE
from torch import Tensor

from gloria_ops import LocalScore, local_scores, reference
from gloria_ops.backends import cpu

KNOBS = st.fixed_dictionaries(
    {"word_norm": st.sampled_from(["none", "softmax", "clipped_l2"]), "similarity": st.sampled_from(["dot", "cosine"])}
) | st.just({"word_norm": "none", "similarity": "smooth_max"})
SCORES = st.builds(
    lambda knobs, **others: LocalScore(**knobs, **others),
    KNOBS,
    attention_scale=st.one_of(st.floats(0.1, 30), st.floats(-1, 6).map(lambda power: 10**power), st.just(math.inf)),
    pool=st.sampled_from(["logsumexp", "softmax", "max", "mean", "sum"]),
    word_scale=st.floats(0.2, 20),
    pool_mean=st.booleans(),
    pool_divide=st.booleans(),
    direction=st.sampled_from(["t2i", "i2t"]),
)


@given(
    score=SCORES,
    kind=st.sampled_from(KINDS),
    powers=st.one_of(st.just((0, 0)), st.tuples(st.integers(-12, 12), st.integers(-12, 12))),
    images=st.integers(1, 5),
    texts=st.integers(1, 5),
    regions=st.integers(1, 70),
    words=st.integers(1, 40),
    width=st.integers(1, 70),
    layout=st.sampled_from(["lengths", "mask", "offsets"]),
    learns=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    isa=st.sampled_from(cpu.available_isas()),
    thread_count=st.integers(1, 4),
    seed=st.integers(0, 2**16),
)
def test_anything_against_float64(
    score, kind, powers, images, texts, regions, words, width, layout, learns, dtype, isa, thread_count, seed
):
    # In one dimension a cosine is a sign, and its gradient rounding; in two its gradient by a word has one direction,
    # whatever rounding does to the context.
    assume(width > 2 or score.similarity != "cosine")
    assume(dtype != torch.float16 or powers == (0, 0))  # it has no such numbers
    magnitudes = 10.0 ** powers[0], 10.0 ** powers[1]
    drawn = problem(kind, images, texts, regions, words, width, seed, magnitudes)
    rounded = (drawn.learning(score, seed) if learns else drawn).to(dtype)

    def compare(count: int) -> None:
        names, found = names_of(rounded), []
        for near in neighbors(rounded, count):
            posed, sizes, steepest = well_posed(near, score)
            near = near._replace(cotangent=near.cotangent * posed)
            with cpu.use_isa(isa), threads(thread_count):
                ours = fused_from(layout, near, score, seed)
            plain, truth = eager(near, score), eager(near.to(torch.float64), score)
            assume(posed.any())
            assume(all(each.isfinite().all() for each in plain))  # else nothing could be too far from it
            found.append([masked(results, posed) for results in (ours, plain, truth)])
            size = (near.cotangent.abs() * sizes).sum()
            for rows, gradient in zip((near.regions, near.words), truth[1:3], strict=True):
                # Where it cancels to nothing, as between rows that are exactly opposite, its rounding is all there is.
                assume(gradient.abs().mean() > 1e-9 * size / rows.double().abs().sum())
            # What one rounding of the similarities is worth in a gradient of few values.
            size *= torch.finfo(torch.float32).eps
            owed = {f"grad_{name}": (size / value.sum()).item() for name, value in near.learned.items()}
            owed["grad_attention_scale"] = (size * steepest).item()
        sides = [[torch.stack(each) for each in zip(*side, strict=True)] for side in zip(*found, strict=True)]
        assert_as_accurate(*sides, slack=ANY_SHAPE, names=names, owed=owed)

    try:
        compare(1)
    except AssertionError:  # one problem may be luck, for either
        compare(16)


def neighbors(rounded: Problem, count: int) -> Iterator[Problem]:
    """The problem itself, and those that rounding meets otherwise: rows a little longer, entries in another order."""
    yield rounded
    for seed in range(1, count):
        order = torch.randperm(rounded.words.shape[-1], generator=torch.Generator().manual_seed(seed))
        regions, words = (rows[..., order] * (1 + seed / 512) for rows in (rounded.regions, rounded.words))
        yield rounded._replace(regions=regions, words=words)


def masked(results: Results, posed: Tensor) -> Results:
    """With the scores of ill-posed pairs as zeros; their gradients are none, for their upstream is zero."""
    return results[0].masked_fill(~posed, 0), *results[1:]


def well_posed(rounded: Problem, score: LocalScore) -> tuple[Tensor, Tensor, Tensor]:
    """Which pairs (N_v, N_t) have a result that rounding does not decide, and the sizes of their scores and logits.

    Of these each of two results is right, or none is, unless by luck:
    - two regions tie for a hard attention, or nearly tie for a steep one, or two words for the maximum over words;
    - an affinity is at the kink of the leaky ReLU, or lengths are at that of the cosine's epsilon;
    - a context is less than the rounding of its regions, or its attention exactly 1/2^k, which rounds nothing;
    - similarities are so near zero that float64 has no digits of the mean in the log, or so large, or affinities of a
      smooth maximum, that it has none of the log;
    - a scale is learned, and one word, or one region of each word, has all weight but 1e-9: float64 has no digits of
      its derivative.
    """
    posed = torch.ones(rounded.cotangent.shape, dtype=torch.bool)
    sizes = torch.zeros(posed.shape, dtype=torch.float64)
    steepest = torch.zeros(())
    exact = rounded.to(torch.float64)
    for image, text in torch.cartesian_prod(*(torch.arange(size) for size in posed.shape)).tolist():
        attended = exact.regions[image, : exact.region_lengths[image]]
        attending = exact.words[text, : exact.word_lengths[text]]
        if score.direction == "i2t":
            attended, attending = attending, attended
        affinity = attending @ attended.T
        logits, eps = reference.word_norm(affinity, score), torch.finfo(rounded.regions.dtype).eps
        attention = reference.attention(affinity, score)
        context = attention @ attended
        if score.similarity == "smooth_max":
            similarities = reference.smooth_maximum(affinity, score)
        else:
            similarities = reference.similarity(context, attending, score)
        slope = {"sum": len(attending), "logsumexp": 1 if score.pool_divide else score.word_scale}.get(score.pool, 1)
        sizes[image, text] = slope * similarities.abs().max()
        steepest = max(steepest, logits.abs().max())
        smooth = score.similarity == "smooth_max" and math.isfinite(score.attention_scale)
        steep = not smooth and score.attention_scale * logits.abs().amax().item() * eps > 1e-2
        # What the rounding of two affinities may add to a lead of their softmax over the words.
        moved = eps * affinity.abs().amax() if score.word_norm == "softmax" else 0.0
        lengths = context.norm(dim=1) * attending.norm(dim=1)
        flat = (score.attention_scale * (logits.amax(1) - logits.amin(1)) < eps).any().item()
        cancelled = context.norm(dim=1) <= 64 * eps * (attention @ attended.norm(dim=1))
        posed[image, text] = (
            (not steep or leads(logits, max(1e-5, 16 * eps), moved))
            and (score.pool != "max" or leads(similarities, 16 * eps))
            and (score.word_norm != "clipped_l2" or affinity.abs().min() > 1e-6 * affinity.abs().max())
            and not cancelled.any().item()
            and not (flat and len(attended) in (2, 4, 8, 16, 32, 64))
            and (score.similarity == "dot" or (lengths / 1e-8 - 1).abs().min() > 1e-5)
            and (
                not (score.pool == "logsumexp" and score.pool_mean)
                or score.word_scale * similarities.abs().max() > 1e-7
            )
            and (score.pool not in ("logsumexp", "softmax") or score.word_scale * similarities.abs().max() < 1e12)
            and (score.similarity != "smooth_max" or affinity.abs().max() < 1e12)
            and not ("word_scale" in rounded.learned and (score.word_scale * lead_of(similarities) > 20).item())
            and not ("attention_scale" in rounded.learned and (score.attention_scale * lead_of(logits) > 20).all())
        )
    return posed, sizes, steepest


def lead_of(values: Tensor) -> Tensor:
    """How far the greatest value of each row is above the next; infinite where there is none."""
    best = torch.nn.functional.pad(values, (0, 1), value=-math.inf).topk(2, dim=-1).values
    return best[..., 0] - best[..., 1]


def leads(values: Tensor, share: float, moved: Tensor | float = 0.0) -> bool:
    """Whether the greatest value of each row leads the next by that share of the greatest magnitude, and by `moved`."""
    return bool((lead_of(values) > (share * values.abs().amax()).clamp(min=moved)).all())


def fused_from(layout: str, rounded: Problem, score: LocalScore, seed: int) -> Results:
    """From the kernels, the words handed over in `layout` and all padding NaN; gradients in the padded layout."""
    regions, words = rounded.regions.clone().requires_grad_(), rounded.words.clone().requires_grad_()
    learned = {name: value.float().requires_grad_() for name, value in rounded.learned.items()}
    real_regions, real = (
        torch.arange(rows.shape[1]) < lengths[:, None]
        for rows, lengths in ((regions, rounded.region_lengths), (words, rounded.word_lengths))
    )
    # The words of a text in their order, at random places among twice as many.
    shuffled = torch.rand(len(words), 2 * words.shape[1], generator=torch.Generator().manual_seed(seed)).argsort()
    mask = shuffled < rounded.word_lengths[:, None]
    described = {
        "lengths": {"word_lengths": rounded.word_lengths},
        "offsets": {"word_offsets": torch.nn.functional.pad(rounded.word_lengths.cumsum(0), (1, 0))},
        "mask": {"word_mask": mask},
    }[layout]

    def laid_out(rows: Tensor) -> Tensor:
        if layout == "offsets":
            return rows[real]
        if layout == "lengths":
            return rows.masked_fill(~real[:, :, None], math.nan)
        return rows.new_full((*mask.shape, rows.shape[2]), math.nan).masked_scatter(mask[:, :, None], rows[real])

    given = dict(learned)
    if "word_weights" in learned:
        given["word_weights"] = laid_out(learned["word_weights"].unsqueeze(-1)).squeeze(-1)
    scores = local_scores(
        regions.masked_fill(~real_regions[:, :, None], math.nan),
        laid_out(words),
        region_lengths=rounded.region_lengths,
        score=score,
        backend="cpu",
        **described,
        **given,
    )
    inputs = (regions, words, *learned.values())
    return scores.detach(), *torch.autograd.grad(scores, inputs, rounded.cotangent.float())
