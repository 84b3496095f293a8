"""The drop-in against SCAN's algorithm, written plainly: norms, aggregations, directions, and what crashed there."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from dropin_checks import assert_replaces, cosine, plain_hinge

from gloria_ops.dropin.scan import ContrastiveLoss, func_attention, xattn_score_i2t, xattn_score_t2i

# l1norm and clipped_l1norm do not run in SCAN itself: they are what its l1norm would make of them.
NORMS = ["softmax", "l2norm", "clipped_l2norm", "l1norm", "clipped_l1norm", "clipped", "no_norm"]
AGGREGATIONS = ["LogSumExp", "Max", "Sum", "Mean"]
FUNCTIONS = {"t2i": xattn_score_t2i, "i2t": xattn_score_i2t}
LENGTHS = [4, 1, 3, 2]

pytestmark = pytest.mark.filterwarnings("ignore:gloria_ops takes the unfused backend")


@pytest.fixture
def batch():
    """3 images of 5 regions, 4 captions of up to 4 words, of length 1, as SCAN's encoders make them."""
    return [F.normalize(torch.randn(*shape, 6, dtype=torch.float64), dim=-1) for shape in ((3, 5), (4, 4))]


def options(**changed):
    given = {"raw_feature_norm": "clipped_l2norm", "agg_func": "LogSumExp", "lambda_lse": 6.0, "lambda_softmax": 9.0}
    return SimpleNamespace(**given | changed)


def plain_attention(query, context, norm, smooth):
    """One query (Q, d) over one context (S, d): what is attended to (Q, d), and attention (S, Q)."""
    rows = []
    for row in context @ query.T:  # normalized over the query, for each row of the context
        if norm.startswith("clipped"):
            row = torch.where(row > 0, row, 0.1 * row)
        if norm == "softmax":
            row = row.exp() / row.exp().sum()
        elif norm.endswith("l2norm"):
            row = row / (row.square().sum().sqrt() + 1e-8)
        elif norm.endswith("l1norm"):
            row = row / (row.abs().sum() + 1e-8)
        rows.append(row)
    attention = torch.softmax(smooth * torch.stack(rows), dim=0)
    return attention.T @ context, attention


def plain_scores(images, captions, lengths, opt, direction):
    lines = []
    for image in images:
        line = []
        for caption, length in zip(captions, lengths, strict=True):
            words = caption[:length]
            query, context = (words, image) if direction == "t2i" else (image, words)
            contexts, _ = plain_attention(query, context, opt.raw_feature_norm, opt.lambda_softmax)
            u = torch.stack([cosine(q, a) for q, a in zip(query, contexts, strict=True)])
            line.append(
                {
                    "LogSumExp": lambda u: torch.log(torch.exp(opt.lambda_lse * u).sum()) / opt.lambda_lse,
                    "Max": torch.max,
                    "Sum": torch.sum,
                    "Mean": torch.mean,
                }[opt.agg_func](u)
            )
        lines.append(torch.stack(line))
    return torch.stack(lines)


@pytest.mark.parametrize("direction", FUNCTIONS)
@pytest.mark.parametrize("agg_func", AGGREGATIONS)
@pytest.mark.parametrize("norm", NORMS)
def test_scores(batch, norm, agg_func, direction):
    opt = options(raw_feature_norm=norm, agg_func=agg_func, lambda_softmax=4.0)
    assert_replaces(
        lambda images, captions: [FUNCTIONS[direction](images, captions, LENGTHS, opt)],
        lambda images, captions: [plain_scores(images, captions, LENGTHS, opt, direction)],
        *batch,
    )


@pytest.mark.parametrize("norm", NORMS)
def test_func_attention(batch, norm):
    images, captions = batch
    opt = options(raw_feature_norm=norm)

    def plain(query, context):
        each = [plain_attention(q, c, norm, 7.0) for q, c in zip(query, context, strict=True)]
        return [torch.stack(made) for made in zip(*each, strict=True)]

    contexts, attention = func_attention(captions[:3], images, opt, 7.0)
    assert (contexts.shape, attention.shape) == ((3, 4, 6), (3, 5, 4))
    assert_replaces(lambda query, context: func_attention(query, context, opt, smooth=7.0), plain, captions[:3], images)


@pytest.mark.parametrize("max_violation", [False, True])
@pytest.mark.parametrize("direction", FUNCTIONS)
def test_contrastive_loss(batch, direction, max_violation):
    opt = options(cross_attn=direction)
    loss = ContrastiveLoss(opt, margin=0.2, max_violation=max_violation)
    lengths = torch.tensor(LENGTHS[:3])

    def plain(images, captions):
        scores = plain_scores(images, captions, lengths, opt, direction)
        return [plain_hinge(scores, 0.2, max_violation)]

    assert_replaces(
        lambda images, captions: [loss(images, captions, lengths)], plain, batch[0], batch[1][:3].contiguous()
    )
    assert (ContrastiveLoss(opt).margin, ContrastiveLoss(opt).max_violation) == (0, False)


@pytest.mark.parametrize("direction", FUNCTIONS)
def test_captions_of_one_word_and_batches_of_one(batch, direction):
    images, captions = batch
    score = FUNCTIONS[direction]
    scores = score(images, captions, LENGTHS, options())
    torch.testing.assert_close(score(images, captions[1:2, :1], [1], options()), scores[:, 1:2])
    torch.testing.assert_close(score(images[:1], captions, LENGTHS, options()), scores[:1])
    assert ContrastiveLoss(options(cross_attn=direction))(images[:1], captions[:1], LENGTHS[:1]) == 0


@pytest.mark.parametrize("lengths", [torch.tensor(LENGTHS), list(torch.tensor(LENGTHS))])
def test_lengths_as_packing_returns_them(batch, lengths):
    assert torch.equal(xattn_score_t2i(*batch, lengths, options()), xattn_score_t2i(*batch, LENGTHS, options()))


def test_only_logsumexp_reads_lambda_lse(batch):
    opt = SimpleNamespace(raw_feature_norm="no_norm", agg_func="Mean", lambda_softmax=9.0)
    assert xattn_score_t2i(*batch, LENGTHS, opt).shape == (3, 4)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"agg_func": "LSE"}, "opt.agg_func is 'LSE'; expected one of 'LogSumExp', 'Max', 'Sum', 'Mean'"),
        ({"raw_feature_norm": "l2"}, "opt.raw_feature_norm is 'l2'; expected one of 'softmax', .*, 'no_norm'"),
        ({"cross_attn": "both"}, "opt.cross_attn is 'both'; expected one of 't2i', 'i2t'"),
        ({"cross_attn": "t2i", "lambda_softmax": 0}, "opt.lambda_softmax is 0.0; expected a number from 1.2e-38"),
    ],
)
def test_unknown_options(batch, changed, message):
    opt = options(**{"cross_attn": "i2t"} | changed)
    with pytest.raises(ValueError, match=message):
        ContrastiveLoss(opt)(*batch, LENGTHS)


@pytest.mark.parametrize("name", ["agg_func", "raw_feature_norm", "cross_attn", "lambda_softmax", "lambda_lse"])
def test_a_missing_option(batch, name):
    opt = options(cross_attn="t2i")
    delattr(opt, name)
    with pytest.raises(TypeError, match=rf"opt has no {name}; expected .*: set opt\.{name}"):
        ContrastiveLoss(opt)(*batch, LENGTHS)


def test_messages_name_the_arguments_of_the_function(batch):
    images, captions = batch
    with pytest.raises(ValueError, match=r"cap_lens has the shape \(3,\); expected \(4,\)"):
        xattn_score_t2i(images, captions, LENGTHS[:3], options())
    with pytest.raises(ValueError, match=r"images has the shape \(5, 6\); expected \(n_image, n_regions, d\)"):
        xattn_score_i2t(images[0], captions, LENGTHS, options())
    loss = ContrastiveLoss(options(cross_attn="t2i"))
    with pytest.raises(ValueError, match=r"s_l has the shape \(3,\); expected \(4,\)"):
        loss(images, captions, LENGTHS[:3])
    with pytest.raises(ValueError, match=r"im are 5 wide and s 6"):
        loss(images[:, :, 1:], captions, LENGTHS)
