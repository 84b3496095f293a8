"""Forward-mode differentiation: the fused scores refuse it with the way out, and never drop a tangent silently."""

import pytest
import torch
from problems import PRESETS, problem
from tolerances import FLOAT32, FLOAT64
from torch.autograd import forward_ad

from gloria_ops import local_contrastive_loss, local_scores

ONE = problem("random", images=3, texts=3, most_regions=7, most_words=5, width=8).to(torch.float32)
REFUSED = r'forward-mode differentiation .* is not implemented; take backend="reference"'


def with_tangent(rows, learned=False):
    return forward_ad.make_dual(rows.clone().requires_grad_(learned), torch.ones_like(rows))


def of_regions(regions):
    return local_scores(regions, ONE.words)


@pytest.mark.parametrize("learned", [False, True], ids=["constant", "learned"])
@pytest.mark.parametrize("name", ["released", "scan_i2t"])
@pytest.mark.parametrize("side", ["regions", "words"])
def test_dual_tensors_are_refused(side, name, learned):
    with forward_ad.dual_level():
        given = {"regions": ONE.regions, "words": ONE.words}
        given[side] = with_tangent(given[side], learned)
        with pytest.raises(NotImplementedError, match=REFUSED):
            local_scores(**given, score=PRESETS[name])


TRANSFORMS = {
    "jvp": lambda f, at: torch.func.jvp(f, (at,), (torch.ones_like(at),)),
    "jacfwd": lambda f, at: torch.func.jacfwd(f)(at),
    "hessian": lambda f, at: torch.func.hessian(lambda each: f(each).sum())(at),
    "jvp of grad": lambda f, at: torch.func.jvp(
        torch.func.grad(lambda each: f(each).sum()), (at,), (torch.ones_like(at),)
    ),
    "linearize": lambda f, at: torch.func.linearize(f, at),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transforms_are_refused(transform):
    with pytest.raises(NotImplementedError, match=REFUSED):
        TRANSFORMS[transform](of_regions, ONE.regions)


def test_a_tangent_of_the_upstream_gradient_is_refused():
    """Forward over reverse, where the scores themselves had no tangent."""
    scores = of_regions(regions := ONE.regions.clone().requires_grad_())
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match=REFUSED):
        torch.autograd.grad(scores, regions, with_tangent(torch.ones_like(scores)))


@pytest.mark.parametrize("frozen", ["compiled", "exported"])
def test_a_graph_made_before_refuses_too(frozen):
    class Scores(torch.nn.Module):
        def forward(self, regions):
            return of_regions(regions)

    if frozen == "exported":
        graph = torch.export.export(Scores(), (ONE.regions,)).module()
    else:
        torch.compiler.reset()
        graph = torch.compile(Scores(), backend="aot_eager")
        graph(ONE.regions)
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match=REFUSED):
        graph(with_tangent(ONE.regions))


def test_the_loss_has_a_tangent_along_its_scale():
    """It multiplies behind the fused scores."""

    def loss(scale):
        return sum(local_contrastive_loss(ONE.regions, ONE.words, logit_scale=scale))

    scale = torch.tensor(10.0)
    _, tangent = torch.func.jvp(loss, (scale,), (torch.ones(()),))
    torch.testing.assert_close(tangent, torch.func.grad(loss)(scale), **FLOAT32)


@pytest.mark.parametrize("name", ["released", "scan_i2t"])
def test_the_reference_has_it(name):
    one = ONE.to(torch.float64)

    def scores(regions):
        return local_scores(regions, one.words, score=PRESETS[name], backend="reference")

    along = torch.randn(one.regions.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    _, tangent = torch.func.jvp(scores, (one.regions,), (along,))
    by_reverse = torch.func.jacrev(scores)(one.regions).flatten(2) @ along.flatten()
    torch.testing.assert_close(tangent, by_reverse, **FLOAT64)
