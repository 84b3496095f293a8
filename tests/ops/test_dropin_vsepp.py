"""The drop-in against VSE++'s loss, written plainly."""

import pytest
import torch
from dropin_checks import assert_replaces, plain_hinge

from gloria_ops.dropin.vsepp import ContrastiveLoss, cosine_sim, order_sim

VECTORS = torch.randn(2, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


def plain_similarity(im, s, measure):
    def one(v, t):
        return -(t - v).clamp(min=0).square().sum().sqrt() if measure == "order" else (v * t).sum()

    return torch.stack([torch.stack([one(v, t) for t in s]) for v in im])


@pytest.mark.parametrize("max_violation", [False, True])
@pytest.mark.parametrize("measure", [False, "cosine", "order"])
@pytest.mark.parametrize("margin", [0, 0.2])
def test_contrastive_loss(margin, measure, max_violation):
    loss = ContrastiveLoss(margin, measure, max_violation)
    assert_replaces(
        lambda im, s: [loss(im, s)],
        lambda im, s: [plain_hinge(plain_similarity(im, s, measure), margin, max_violation)],
        *VECTORS,
    )


@pytest.mark.parametrize(("function", "measure"), [(cosine_sim, "cosine"), (order_sim, "order")])
def test_similarities(function, measure):
    images, captions = VECTORS[0], VECTORS[1, :3]
    assert function(images, captions).shape == (5, 3)
    assert_replaces(lambda im, s: [function(im, s)], lambda im, s: [plain_similarity(im, s, measure)], images, captions)


def test_the_order_at_distance_zero_has_gradients():
    above = VECTORS[0].abs().requires_grad_()
    below = (-VECTORS[1].abs()).requires_grad_()
    loss = ContrastiveLoss(margin=0.2, measure="order")(above, below)
    assert loss.item() == pytest.approx(2 * 5 * 4 * 0.2)
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(loss, (above, below)))


@pytest.mark.parametrize("measure", ["cosine", "order"])
def test_messages_name_the_arguments_of_the_function(measure):
    loss = ContrastiveLoss(measure=measure)
    with pytest.raises(ValueError, match=r"im are \(5, 6\) on cpu and s \(5, 4\) on cpu; expected one width"):
        loss(VECTORS[0], VECTORS[1][:, :4])
    with pytest.raises(TypeError, match=r"s is torch.int64; expected float16"):
        loss(VECTORS[0], VECTORS[1].long())
