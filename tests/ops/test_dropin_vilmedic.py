"""The drop-in against vilmedic's two losses, written plainly."""

import pytest
import torch
from dropin_checks import assert_replaces, plain_cosines, plain_cross_entropies, plain_local_scores
from tolerances import FLOAT64

from gloria_ops.dropin import gloria
from gloria_ops.dropin.vilmedic import ConVIRTLoss, GLoRIALoss, gloria_attention_fn

SENTS = [
    ["[CLS]", "no", "effusion", "[SEP]", "[PAD]"],
    ["[CLS]", "stable", "[UNK]", "cardiac", "silhouette"],
    ["[CLS]", "[SEP]", "[PAD]", "[PAD]", "[PAD]"],
]
LENGTHS = [3, 4, 1]  # words that do not begin with "[", and one more


@pytest.fixture
def features():
    shapes = (3, 6), (3, 6, 2, 4), (3, 6, 5), (3, 6)
    return [torch.randn(*shape, dtype=torch.float64) for shape in shapes]


@pytest.mark.parametrize("settings", [(), (0.5, 2.0, 3.0, 4.0, 6.0)])
def test_gloria_loss(features, settings):
    loss = GLoRIALoss(*settings)
    local, whole, temp1, temp2, temp3 = settings or (1.0, 1.0, 4.0, 5.0, 10.0)

    def plain(images, regions, words, texts):
        scores = plain_local_scores(regions, words, LENGTHS, temp1, temp2), plain_cosines(images, texts)
        return [
            sum(
                weight * losses.mean()
                for weight, each in zip((local, whole), scores, strict=True)
                for losses in plain_cross_entropies(temp3 * each)
            )
        ]

    assert_replaces(lambda *features: [loss(*features, SENTS)[0]], plain, *features)


def test_gloria_loss_by_keyword_returns_the_maps(features):
    images, regions, words, texts = features
    loss, maps = GLoRIALoss(local_loss_weight=1.0, global_loss_weight=0.0, temp1=4.0, temp2=5.0, temp3=10.0)(
        global_features=images, local_features=regions, word_embeddings=words, sent_embeddings=texts, sents=SENTS
    )
    loss0, loss1, expected = gloria.local_loss(regions, words, LENGTHS)
    torch.testing.assert_close(loss, loss0 + loss1, **FLOAT64)
    assert [each.shape for each in maps] == [(1, length, 2, 4) for length in LENGTHS]
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(maps, expected, strict=True))


def test_convirt_loss():
    loss = ConVIRTLoss(tau=0.1, lambda_=0.75, proto="ConVIRTLoss")

    def plain(texts, images):
        cosines = plain_cosines(images, texts) / 0.1
        loss_v, loss_l = plain_cross_entropies(cosines)
        return (0.75 * loss_v + 0.25 * loss_l).mean(), loss_l, loss_v

    assert_replaces(loss, plain, *(torch.randn(4, 6, dtype=torch.float64) for _ in range(2)))
    assert repr(loss) == "ConVIRTLoss(tau=0.1, lambda_=0.75)"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tau": 0, "lambda_": 0.5}, "tau is 0.0; expected a number from 1.2e-38 to 8.3e\\+37, within float32$"),
        ({"tau": 0.1, "lambda_": 75}, "lambda_ is 75; expected 0 to 1, the weight of image to text"),
    ],
)
def test_convirt_settings_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ConVIRTLoss(**settings)


def test_messages_name_the_arguments_of_the_function():
    given = {
        "global_features": torch.ones(2, 3),
        "local_features": torch.ones(2, 3, 2, 2),
        "word_embeddings": torch.ones(2, 3, 4),
        "sent_embeddings": torch.ones(2, 3),
        "sents": [["[CLS]", "a"], ["[CLS]", "b"]],
    }
    for changed, message in (
        ({"sents": [["a"] * 9] * 2}, r"the length of sents\[0\] is 10; expected 1 to 4"),
        ({"local_features": torch.ones(2, 3, 4)}, r"local_features has the shape .*; expected \(B, D, h, w\)"),
        ({"word_embeddings": torch.ones(2, 5, 4)}, "local_features are 3 wide and word_embeddings 5"),
        ({"sent_embeddings": torch.ones(2, 5)}, r"global_features are \(2, 3\) on cpu and sent_embeddings \(2, 5\)"),
    ):
        with pytest.raises(ValueError, match=message):
            GLoRIALoss()(**given | changed)
    with pytest.raises(ValueError, match=r"visual are \(2, 3\) on cpu and linguistic \(2, 4\) on cpu"):
        ConVIRTLoss(0.1, 0.75)(torch.ones(2, 4), torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"2 images \(N_v\) and 3 texts.*drop what has no partner$"):
        ConVIRTLoss(0.1, 0.75)(torch.ones(3, 3), torch.ones(2, 3))


def test_the_attention_is_that_of_gloria():
    assert gloria_attention_fn is gloria.attention_fn
