"""The learning benchmark: its measures are right where the answer is known, and it runs from training to table."""

import json
import math
from contextlib import nullcontext
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from bench import learning
from gloria.data import Row
from gloria.embeddings import Embeddings
from gloria.images import GloriaImageProcessor
from gloria.retrieval import Similarities
from gloria.zero_shot import classifier
from gloria_ops import LocalScore

PROCESSOR = SimpleNamespace(image_processor=GloriaImageProcessor(size=64, crop_size=64))


def process(images):
    return {"pixel_values": torch.from_numpy(PROCESSOR.image_processor(images)["pixel_values"])}


@pytest.fixture
def row(tmp_path):
    """A finding in the upper left quarter of the picture."""
    mask = np.zeros((64, 64), bool)
    mask[:32, :32] = True
    Image.fromarray(mask).save(tmp_path / "mask.png")
    return Row(2, tmp_path / "image.png", "Small effusion.", label="Pleural Effusion", mask=tmp_path / "mask.png")


@pytest.mark.parametrize(("looks_at", "inside", "hits"), [((0, 1), 1.0, 1.0), ((3, 3), 0.0, 0.0), (None, 0.25, None)])
def test_attention_is_measured_against_the_mask(row, monkeypatch, looks_at, inside, hits):
    maps = np.full((3, 4, 4), 1 / 16, np.float32)
    if looks_at:
        maps[1] = 0  # "effusion"; what the other words look at does not count
        maps[1][looks_at] = 1
    monkeypatch.setattr(learning, "word_attention", lambda *_: (["small", "effusion", "."], maps))
    processor = type("P", (), {"__call__": lambda _, images: process(images), **vars(PROCESSOR)})()
    model = SimpleNamespace(config=SimpleNamespace(region_stage=None, image_config=SimpleNamespace()))
    measured = learning.attention_to_masks(model, processor, [row])
    assert measured["attention inside the mask"] == pytest.approx(inside)
    assert measured["attention inside the mask, other words"] == pytest.approx(0.25)
    assert measured["attention inside the mask, by chance"] == pytest.approx(0.25)
    assert measured["pointing at the mask, by chance"] == pytest.approx(0.25)
    if hits is not None:
        assert measured["pointing at the mask"] == hits


def test_zero_shot_takes_the_class_with_the_best_prompts(monkeypatch):
    labels = list(learning.PROMPTS)
    rows = [Row(2, None, "", label=label) for label in [*labels, labels[0]]]
    scores = torch.zeros(6, 15)
    for image in range(5):
        scores[image, 3 * image : 3 * image + 3] = torch.tensor([2.0, 0.1, 0.1])
        scores[image, (3 * image + 4) % 15] = 2.1  # the best single prompt, of another class
    scores[5, 3:6] = 1
    texts = Embeddings(None, torch.zeros(30, 1), 2 * torch.arange(16))
    monkeypatch.setattr(classifier, "encode_texts", lambda *_: texts)
    monkeypatch.setattr(classifier, "similarities_to", lambda *_: Similarities(scores, scores))
    monkeypatch.setattr(classifier, "inference", lambda _: nullcontext())
    model = SimpleNamespace(learned_score=LocalScore.released())
    processor = SimpleNamespace(tokenizer=SimpleNamespace(cls_token_id=2))
    assert learning.zero_shot(model, processor, rows) == pytest.approx(5 / 6)


def test_intervals_are_those_of_students_t():
    assert learning.interval([1.0, 2.0, 3.0]) == pytest.approx(4.303 / math.sqrt(3))
    assert learning.interval([0.0, 1.0]) == pytest.approx(12.706 * math.sqrt(0.5) / math.sqrt(2))
    assert learning.interval([1.0]) == math.inf


def test_runs_from_training_to_table(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(learning, "HELD_OUT", 2)
    monkeypatch.setattr(learning, "attention_figure", lambda *_, **__: plt.figure())  # its own tests draw it
    learning.main(["--out", str(tmp_path), "--seeds", "1", "--count", "4", "--epochs", "1", "--of-each", "1"])
    runs = json.loads((tmp_path / "learning.json").read_text())
    assert len(runs) == 1
    for name, value in runs[0].items():
        assert -1 <= value <= 1 or name.startswith("minutes"), name
    printed = capsys.readouterr().out
    assert "mean over 1 seeds" in printed
    assert all(name in printed for name in runs[0])
    assert len(list((tmp_path / "0").glob("*.png"))) == 5
    with pytest.raises(SystemExit, match="2"):
        learning.main(["--seeds", "11"])
