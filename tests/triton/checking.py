"""What the Triton kernels are checked with, interpreted and on a GPU: scores, ragged problems, errors."""

import dataclasses
import math

import torch
from tolerances import BACKWARD, FORWARD, error, rounding

from gloria_ops import LocalScore, reference
from gloria_ops.backends import triton as backend
from gloria_ops.tokens import Ragged

RELEASED = LocalScore.released()
SCORES = {
    "paper": LocalScore.paper(0.3, 0.2),
    "released": RELEASED,
    "released, agg mean": dataclasses.replace(RELEASED, pool_mean=True),
    "scan_t2i": LocalScore.scan_t2i(),
    "maxsim": LocalScore.maxsim(),
    "none, cosine": LocalScore(word_norm="none", pool="mean"),
    "softmax, dot": LocalScore(similarity="dot", pool="sum"),
    "a scale that needs the maximum": LocalScore(attention_scale=50.0, pool_divide=True),
    "clipped_l2, dot": LocalScore(word_norm="clipped_l2", similarity="dot"),
    "smooth maximum": LocalScore(word_norm="none", similarity="smooth_max", pool="softmax"),
}
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def problem(images, texts, regions, words, dim, dtype, seed=0, device="cpu"):
    """Both sides, ragged and padded, with NaN in the padding."""
    random = torch.Generator().manual_seed(seed)
    region_lengths = torch.randint(1, regions + 1, (images,), generator=random)
    word_lengths = torch.randint(1, words + 1, (texts,), generator=random)
    region_lengths[0], word_lengths[-1] = regions, words
    v = torch.randn(images, regions, dim, generator=random) / dim**0.25
    t = torch.randn(texts, words, dim, generator=random) / dim**0.25
    v[torch.arange(regions) >= region_lengths[:, None]] = math.nan
    t[torch.arange(words) >= word_lengths[:, None]] = math.nan
    sides = (
        Ragged(v.flatten(0, 1).to(dtype), torch.arange(images) * regions, region_lengths),
        Ragged(t.flatten(0, 1).to(dtype), torch.arange(texts) * words, word_lengths),
    )
    return tuple(Ragged(*(each.to(device) for each in side)) for side in sides)


def double(inputs):
    return tuple(side.to(torch.float64) for side in inputs)


def gradients(inputs, score, grad_scores):
    images, texts = (side._replace(rows=side.rows.clone().requires_grad_()) for side in inputs)
    scores = reference.scores(images, texts, score)
    return torch.autograd.grad(scores, (images.rows, texts.rows), grad_scores.to(scores.dtype))


def check(ours, eager, truth, factor):
    allowed = factor * error(eager, truth) + rounding(ours, truth)
    assert error(ours, truth) <= allowed, f"errs by {error(ours, truth):.3g}, eager by {error(eager, truth):.3g}"


def check_forward(inputs, score, slack=1):
    ours = backend.forward(*inputs, score)
    assert ours.dtype == torch.float32
    check(ours, reference.scores(*inputs, score), reference.scores(*double(inputs), score), slack * FORWARD)


def check_backward(inputs, score, slack=1):
    images, texts = inputs
    shape = images.starts.numel(), texts.starts.numel()
    grad_scores = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(images.rows.device)
    ours = backend.backward(grad_scores, *inputs, score)
    eagers, truths = (gradients(each, score, grad_scores) for each in (inputs, double(inputs)))
    for gradient, eager, truth in zip(ours, eagers, truths, strict=True):
        assert gradient.dtype == eager.dtype
        check(gradient, eager, truth, slack * BACKWARD)
    if math.isinf(score.attention_scale):
        best = torch.empty(len(images.starts), len(texts.rows), dtype=torch.int32, device=images.rows.device)
        backend.forward(*inputs, score, best=best)
        for kept, gradient in zip(backend.backward(grad_scores, *inputs, score, best=best), ours, strict=True):
            assert torch.equal(kept, gradient)
