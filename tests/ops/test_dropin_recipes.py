"""Every recipe of the page, in the layout of its repository: what is called is ours, and the results are equal."""

import importlib
import re
from pathlib import Path
from types import SimpleNamespace

import dropin_skeletons as skeletons
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tolerances import FLOAT64

from gloria_ops.dropin import attngan, gloria, scan, vilmedic, vsepp

PAGE = (Path(__file__).parents[2] / "docs" / "dropins.md").read_text()
LENGTHS = [5, 2, 3, 4]
IDS = np.array([4, 1, 4, 2])
SENTS = [["[CLS]", *["word"] * (length - 1), "[SEP]"] for length in LENGTHS]


def draw(*shape, seed=1):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


IMAGES, WORDS, IMAGE_CODES, TEXT_CODES = (
    draw(4, 6, 2, 3),
    draw(4, 6, 6, seed=2),
    draw(4, 6, seed=3),
    draw(4, 6, seed=4),
)


def recipes(section):
    """What the page appends, by file."""
    text = PAGE.split(f"\n## {section}\n")[1].split("\n## ")[0]
    found = {}
    for block in re.findall(r"```python\n(# at the end of .*?)```", text, flags=re.DOTALL):
        for files, lines in re.findall(r"# at the end of (.*)\n((?:(?!# at the end).*\n)+)", block):
            found |= dict.fromkeys(re.findall(r"[\w/]+\.py", files), f"\n{lines}")
    assert found
    return found


def before_and_after(tmp_path, files, section, use, root=""):
    """What `use(modules)` gives in the repository as it is, and with the recipe."""
    results = []
    wanted = {name: text for name, text in recipes(section).items() if name in files}
    assert wanted
    for name, appended in (("before", None), ("after", wanted)):
        skeletons.lay_out(tmp_path / name, files, appended)
        with skeletons.first_on_the_path(tmp_path / name / root):
            results.append(use())
    for before, after in zip(*results, strict=True):
        torch.testing.assert_close(after, before, **FLOAT64)


def with_gradients(function, *inputs):
    leaves = [each.clone().requires_grad_() for each in inputs]
    loss, *rest = function(*leaves)
    return [loss.detach(), *torch.autograd.grad(loss, leaves), *rest]


def test_gloria(tmp_path):
    """Theirs is the package `gloria` that is first on the path, though ours has that name too."""
    inside = []

    def use():
        theirs = importlib.import_module("gloria")
        assert str(tmp_path) in theirs.__file__
        model = theirs.builder.build_gloria_model((3.0, 2.0, 7.0))
        inside.append(model.local_loss is gloria.local_loss)
        retriever = theirs.models.retrival_model.Retriver(model)
        inside.append(theirs.models.retrival_model.attention_fn is gloria.attention_fn)
        maps = model.calc_loss(IMAGES, IMAGE_CODES, WORDS, TEXT_CODES, SENTS)[1]
        assert type(maps) is list
        similarities = theirs.get_similarities(model, IMAGES[:3], {"words": WORDS, "cap_lens": LENGTHS})
        retrieved = retriever.retrieve(IMAGES[:1], WORDS, LENGTHS)
        assert isinstance(retrieved, np.ndarray)
        calculated = with_gradients(
            lambda *given: [model.calc_loss(*given, SENTS)[0]], IMAGES, IMAGE_CODES, WORDS, TEXT_CODES
        )
        return [*calculated, *maps, similarities, torch.tensor(retrieved)]

    before_and_after(tmp_path, skeletons.GLORIA, "GLoRIA", use)
    assert inside == [False, False, True, True]
    assert gloria.__name__ == "gloria_ops.dropin.gloria"


@pytest.mark.parametrize("name", skeletons.GANS)
def test_gans(tmp_path, name):
    """Also the generator's loss, which has them from the file itself, and the gammas of the configuration."""
    files, root = skeletons.GANS[name], "" if name == "MirrorGAN" else "code"
    labels, lengths = torch.arange(4), torch.tensor(LENGTHS)
    ours = []

    def use():
        pretrain, trainer = importlib.import_module("pretrain_DAMSM"), importlib.import_module("trainer")
        losses = importlib.import_module("miscc.losses")
        ours.append([losses.words_loss is attngan.words_loss, trainer.words_loss is attngan.words_loss])
        maps = trainer.save_img_results(IMAGES, WORDS, lengths)
        assert type(maps) is list
        results = [torch.cat([each.flatten() for each in maps + maps])]
        for class_ids in (None, IDS):
            results += with_gradients(
                lambda v, w, i, t, ids=class_ids: [pretrain.train(v, w, i, t, labels, lengths, ids)[0]],
                *(IMAGES, WORDS, IMAGE_CODES, TEXT_CODES),
            )
        if hasattr(losses, "generator_loss"):
            results += with_gradients(
                lambda fakes: losses.generator_loss(
                    lambda imgs: (imgs, imgs.mean((2, 3))), fakes, WORDS, TEXT_CODES, labels, lengths, IDS
                )[:1],
                IMAGES,
            )
        if hasattr(losses, "word_level_correlation"):
            results.append(losses.word_level_correlation(IMAGES, WORDS, lengths, 4, IDS))
        return results

    before_and_after(tmp_path, files, "AttnGAN, ControlGAN, DM-GAN, MirrorGAN", use, root)
    assert ours == [[False, False], [True, True]]


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_scan(tmp_path, direction):
    opt = SimpleNamespace(
        raw_feature_norm="clipped_l2norm",
        agg_func="LogSumExp",
        lambda_lse=6.0,
        lambda_softmax=9.0,
        cross_attn=direction,
        margin=0.2,
        max_violation=True,
    )
    images, captions = F.normalize(draw(4, 5, 6), dim=-1), F.normalize(draw(4, 5, 6, seed=2), dim=-1)
    ours = []

    def use():
        model, evaluation = importlib.import_module("model"), importlib.import_module("evaluation")
        ours.append(evaluation.xattn_score_t2i is scan.xattn_score_t2i)
        scores = getattr(evaluation, f"shard_xattn_{direction}")(images, captions, LENGTHS, opt)
        return [
            scores,
            *with_gradients(lambda v, t: [model.SCAN(opt).forward_loss(v, t, LENGTHS)], images, captions),
        ]

    before_and_after(tmp_path, skeletons.SCAN, "SCAN", use)
    assert ours == [False, True]


def test_vsepp(tmp_path):
    opt = SimpleNamespace(margin=0.2, measure="order", max_violation=True)
    ours = []

    def use():
        model, evaluation = importlib.import_module("model"), importlib.import_module("evaluation")
        ours.append(evaluation.order_sim is vsepp.order_sim)
        loss = with_gradients(lambda v, t: [model.VSE(opt).forward_loss(v, t)], IMAGE_CODES, TEXT_CODES)
        return [evaluation.i2t(IMAGE_CODES, TEXT_CODES), *loss]

    before_and_after(tmp_path, skeletons.VSEPP, "VSE++, CLIP, ConVIRT: losses over any scores", use)
    assert ours == [False, True]


def test_vilmedic(tmp_path):
    ours = []

    def use():
        whole = importlib.import_module("vilmedic.models.selfsup.GLoRIA").GLoRIA({"temp1": 3.0, "temp2": 2.0})
        convirt = importlib.import_module("vilmedic.models.selfsup.conVIRT")
        ours.append(isinstance(whole.loss_fn, vilmedic.GLoRIALoss))
        pair = convirt.ConVIRT({"proto": "ConVIRTLoss", "tau": 0.1, "lambda_": 0.75}).loss_fn(TEXT_CODES, IMAGE_CODES)
        loss = with_gradients(lambda *given: [whole.loss_fn(*given, SENTS)[0]], IMAGE_CODES, IMAGES, WORDS, TEXT_CODES)
        return [*pair, *loss, *whole.loss_fn(IMAGE_CODES, IMAGES, WORDS, TEXT_CODES, SENTS)[1]]

    before_and_after(tmp_path, skeletons.VILMEDIC, "vilmedic", use)
    assert ours == [False, True]
