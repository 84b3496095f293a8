"""The errors of the fused score and its gradients against float64, beside those of eager PyTorch in the same dtype."""

from __future__ import annotations

from typing import Any

import torch
from kernel_checks import in_orders
from problems import DELICATE
from tolerances import error
from torch import Tensor

from bench.cases import DTYPES, Case, make_inputs
from bench.peers import Contender, eager, fused

KINDS = ("random", "correlated", "unit_norm", *DELICATE)
RESULTS = ("scores", "grad_regions", "grad_words")


def measure(case: Case, dtype: str, kind: str, *, backend: str) -> list[dict[str, Any]]:
    """One row for the scores and one for each gradient: root-mean-square errors against float64, and their ratio.

    All three start from inputs rounded to `dtype`. `ratio_of_largest` divides the errors of the worst entries, which
    are two single numbers and so a matter of luck too. Either ratio owes one rounding to float32 even where eager is
    exact: without that, a lucky eager result would make any error infinite. Delicate kinds are computed with the width
    in four orders, of which each alone is luck.
    """
    inputs = make_inputs(case, kind).to(DTYPES[dtype])
    exact_inputs, orders = inputs.to(torch.float64), 4 if kind in DELICATE else 1
    exact_results = _results(fused(case, exact_inputs, backend="reference"), exact_inputs.grad_scores)
    truth = [each.expand(orders, *each.shape) for each in exact_results]
    plain = in_orders(lambda one: _results(eager(case, one), one.grad_scores), inputs, orders)
    ours = in_orders(lambda one: _results(fused(case, one, backend), one.grad_scores), inputs, orders)
    rows = []
    for result, exact, plain_values, our_values in zip(RESULTS, truth, plain, ours, strict=True):
        eager_error, fused_error = error(plain_values, exact), error(our_values, exact)
        eager_largest, fused_largest = _largest(plain_values - exact), _largest(our_values - exact)
        one_rounding = torch.finfo(torch.float32).eps * exact
        rows.append(
            {
                "inputs": kind, "preset": case.preset, "dtype": dtype, "result": result,
                "eager_error": eager_error, "fused_error": fused_error,
                "ratio": fused_error / max(eager_error, one_rounding.square().mean().sqrt().item()),
                "ratio_of_largest": fused_largest / max(eager_largest, one_rounding.abs().max().item()),
            }
        )  # fmt: skip
    return rows


def _largest(errors: Tensor) -> float:
    return errors.abs().max().item()


def _results(contender: Contender, grad_scores: Tensor) -> tuple[Tensor, ...]:
    scores = contender.scores(*contender.leaves)
    return scores.detach(), *torch.autograd.grad(scores, contender.leaves, grad_scores.to(scores.dtype))
