"""The sigmoid loss against SigLIP's algorithm 1, and over the local scores."""

import math

import pytest
import torch
import torch.nn.functional as F
from dropin_checks import assert_replaces
from problems import problem
from tolerances import FLOAT64

from gloria_ops import LocalScore, LocalSigmoidLoss, contrastive_losses, local_scores, local_sigmoid_loss, sigmoid_loss

SCORES = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(12))
WIDE = torch.cat([SCORES, SCORES[:, :1] - 1], dim=1)
SCALE, BIAS = torch.tensor([1.7], dtype=torch.float64), torch.tensor(-0.6, dtype=torch.float64)
ONE = problem("random", 4, 4, most_regions=6, most_words=5, width=8)


def algorithm_1(images, texts, t_prime, b):
    """Zhai et al. 2023, "Sigmoid Loss for Language Image Pre-Training", line by line."""
    n = len(images)
    t = torch.exp(t_prime)
    zimg, ztxt = F.normalize(images, dim=1), F.normalize(texts, dim=1)
    logits = zimg @ ztxt.T * t + b
    labels = 2 * torch.eye(n, dtype=images.dtype) - torch.ones(n, n, dtype=images.dtype)
    return -F.logsigmoid(labels * logits).sum() / n


def plain(scores, scale, bias, weights, mask=None):
    """Image by image; weights are the probability of yes."""
    rows = []
    for i, row in enumerate(scores):
        losses = []
        for j, score in enumerate(row):
            if mask is None or mask[i, j]:
                yes = 1 / (1 + torch.exp(-(scale * score + bias)))
                losses.append(-weights[i, j] * torch.log(yes) - (1 - weights[i, j]) * torch.log(1 - yes))
        rows.append(sum(losses).reshape(()))
    return torch.stack(rows)


def test_it_is_algorithm_1():
    images, texts = ONE.regions[:, 0], ONE.words[:, 0]
    assert_replaces(
        lambda v, w, t, b: [
            sigmoid_loss(F.normalize(v, dim=1) @ F.normalize(w, dim=1).T, logit_scale=t.exp(), logit_bias=b)
        ],
        lambda v, w, t, b: [algorithm_1(v, w, t, b)],
        images,
        texts,
        torch.tensor(math.log(10), dtype=torch.float64),
        torch.tensor(-10.0, dtype=torch.float64),
    )
    cosines = F.normalize(images, dim=1) @ F.normalize(texts, dim=1).T
    started = algorithm_1(images, texts, torch.tensor(math.log(10)).double(), torch.tensor(-10.0).double())
    torch.testing.assert_close(sigmoid_loss(cosines), started, rtol=1e-6, atol=0)  # of a float32 log


def test_is_transformers_siglip():
    modeling = pytest.importorskip("transformers.models.siglip.modeling_siglip")
    from transformers import SiglipConfig

    tiny = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    text_config = tiny | {"vocab_size": 9, "max_position_embeddings": 4, "pad_token_id": 1}
    vision_config = tiny | {"image_size": 8, "patch_size": 4}
    model = modeling.SiglipModel(SiglipConfig(text_config=text_config, vision_config=vision_config)).double()
    torch.manual_seed(0)
    with torch.no_grad():
        model.logit_scale.fill_(0.7), model.logit_bias.fill_(-1.3)
    output = model(torch.randint(2, 9, (3, 4)), torch.randn(3, 3, 8, 8).double(), return_loss=True)
    scores = output.image_embeds @ output.text_embeds.T
    ours = sigmoid_loss(scores, logit_scale=model.logit_scale.exp(), logit_bias=model.logit_bias)
    torch.testing.assert_close(ours, output.loss, **FLOAT64)


@pytest.mark.parametrize("masked", [False, True])
def test_probabilities_and_masks(masked):
    weights = torch.tensor([[0.5, 0, 1, 0.25, 0]] * 2 + [[0, 0, 0, 0, 0], [1, 1, 0, 0, 0.9]], dtype=torch.float64)
    mask = torch.arange(20).reshape(4, 5) % 4 != 1 if masked else None
    assert_replaces(
        lambda scores, scale, bias: [
            sigmoid_loss(scores, logit_scale=scale, logit_bias=bias, targets=weights, pair_mask=mask, reduction="none")
        ],
        lambda scores, scale, bias: [plain(scores, scale, bias, weights, mask)],
        WIDE,
        SCALE,
        BIAS,
    )


def test_equal_ids_are_yes_and_a_mask_leaves_them_out():
    ids = torch.tensor([4, 2, 4, 1])
    same = ids[:, None] == ids
    settings = {"logit_scale": 2.0, "logit_bias": -1.0, "reduction": "none"}
    yes = sigmoid_loss(SCORES, targets=ids, **settings)
    torch.testing.assert_close(yes, plain(SCORES, 2.0, -1.0, same.double()), **FLOAT64)
    out = sigmoid_loss(SCORES, pair_mask=~same | torch.eye(4).bool(), **settings)
    expected = plain(SCORES, 2.0, -1.0, torch.eye(4), ~same | torch.eye(4).bool())
    torch.testing.assert_close(out, expected, **FLOAT64)
    assert (yes != out).tolist() == [True, False, True, False]


def test_reductions():
    each = sigmoid_loss(SCORES, reduction="none")
    assert sigmoid_loss(SCORES) == each.mean()
    assert sigmoid_loss(SCORES, reduction="sum") == each.sum()


def test_over_local_scores():
    score = LocalScore.scan_t2i()
    ours = local_sigmoid_loss(ONE.regions, ONE.words, score=score, logit_bias=-2.0, **ONE.lengths)
    scores = local_scores(ONE.regions, ONE.words, score=score, **ONE.lengths)
    assert ours == sigmoid_loss(scores, logit_scale=1.0, logit_bias=-2.0)


def test_the_module_learns_scale_and_bias():
    module = LocalSigmoidLoss(logit_bias=-3.0)
    assert sorted(name for name, _ in module.named_parameters()) == ["logit_bias.bias", "logit_scale.log_scale"]
    loss = module(ONE.regions, ONE.words, targets=torch.zeros(4, dtype=torch.int64), **ONE.lengths)
    expected = local_sigmoid_loss(ONE.regions, ONE.words, logit_bias=-3.0, targets=torch.ones(4, 4), **ONE.lengths)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)  # the scale is the exponential of a float32
    loss.backward()
    assert all(each.grad.abs() > 0 for each in module.parameters())
    assert "-3, learnable=True" in str(module)
    scales = LocalSigmoidLoss(learnable_attention_scale=True, learnable_word_scale=True)
    scales(ONE.regions, ONE.words, **ONE.lengths).backward()
    assert all(each.grad.abs() > 0 for each in scales.parameters())
    assert len(list(scales.parameters())) == 4
    fixed = LocalSigmoidLoss(logit_bias=-3.0, learnable=False)
    assert not list(fixed.parameters())
    assert fixed(ONE.regions, ONE.words) == local_sigmoid_loss(ONE.regions, ONE.words, logit_bias=-3.0)


def test_it_compiles_to_one_graph_as_do_targets():
    def loss(regions, words, targets, mask, bias):
        scores = local_scores(regions, words)
        both = contrastive_losses(scores, logit_scale=2.0, targets=targets, pair_mask=mask)
        return sum(both) + sigmoid_loss(scores, logit_bias=bias, targets=targets, pair_mask=mask)

    torch.compiler.reset()
    given = ONE.regions.float(), ONE.words.float(), torch.eye(4), torch.eye(4).bool().roll(1), BIAS.float()
    given[3].fill_diagonal_(True)
    torch.testing.assert_close(torch.compile(loss, fullgraph=True, backend="aot_eager")(*given), loss(*given))
    torch.compiler.reset()


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"logit_bias": torch.ones(2)}, ValueError, r"logit_bias has the shape \(2,\); expected a finite number, or a"),
        ({"logit_bias": math.inf}, ValueError, "logit_bias is inf; expected a finite number"),
        ({"logit_bias": "low"}, TypeError, "logit_bias is 'low'; expected a finite number"),
        ({"logit_scale": torch.ones(2)}, ValueError, r"logit_scale has the shape \(2,\); expected one element"),
        ({"reduction": "max"}, ValueError, "reduction is 'max'"),
        (
            {"targets": torch.eye(4) * 3},
            ValueError,
            r"targets\[0, 0\] is 3; expected 0 to 1, the probability",
        ),
        ({"pair_mask": torch.ones(4, 4)}, TypeError, "pair_mask is torch.float32; expected a bool"),
    ],
)
def test_what_does_not_fit_has_a_message(settings, error, message):
    with pytest.raises(error, match=message):
        sigmoid_loss(SCORES, **settings)
    with pytest.raises(ValueError, match=r"4 images \(N_v\) and 5 texts.*, or give targets \(N_v, N_t\)$"):
        sigmoid_loss(WIDE)
