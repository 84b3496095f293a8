"""Tiny encoders, a tokenizer trained on the spot and a sealed network, shared by the tests of the model layer."""

import socket

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import BertWordPieceTokenizer
from transformers import BertConfig, BertTokenizerFast, ResNetConfig, ViTConfig

from gloria import GloriaConfig, GloriaImageProcessor, GloriaModel, GloriaProcessor
from gloria.data import Row
from gloria.retrieval import similarities

REPORTS = [
    "Small left pleural effusion. Heart size is normal.",
    "No pneumothorax.",
    "Cardiomegaly with mild oedema, unchanged; right lower lobe consolidation.",
    "",
]


@pytest.fixture(scope="session")
def reports():
    return REPORTS


@pytest.fixture
def no_network(monkeypatch):
    """Any attempt to open a connection fails the test."""

    def refuse(*_args, **_kwargs):
        raise AssertionError("a network connection was attempted")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="session")
def tokenizer():
    trained = BertWordPieceTokenizer(lowercase=True)
    trained.train_from_iterator(REPORTS, vocab_size=60, show_progress=False)  # so few that words fall into pieces
    return BertTokenizerFast(vocab=trained.get_vocab(), do_lower_case=True, model_max_length=128)


@pytest.fixture(scope="session")
def processor(tokenizer):
    return GloriaProcessor(GloriaImageProcessor(crop_size=64), tokenizer)


@pytest.fixture
def image_configs():
    return {
        "resnet": ResNetConfig(embedding_size=8, hidden_sizes=[8, 8, 12, 16], depths=[1, 1, 1, 1], layer_type="basic"),
        "vit": ViTConfig(
            image_size=64,
            patch_size=16,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
        ),
    }


@pytest.fixture
def text_config(tokenizer):
    return BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=128,
    )


@pytest.fixture
def config(image_configs, text_config):
    return GloriaConfig(image_config=image_configs["resnet"], text_config=text_config, projection_dim=24)


@pytest.fixture
def model(config):
    torch.manual_seed(0)
    return GloriaModel(config).eval()


@pytest.fixture(scope="session")
def pictures():
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (50 + 10 * i, 70), dtype=np.uint8) for i in range(len(REPORTS))]


@pytest.fixture
def batch(processor, pictures):
    return processor(images=pictures, text=REPORTS)


@pytest.fixture(scope="session")
def rows(tmp_path_factory):
    """Eleven rows of two labels, no two images and no two reports equal."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    words = " ".join(REPORTS).lower().replace(".", "").split()
    made = []
    for line in range(2, 13):
        pixels = random.integers(0, 80, (40, 50), dtype=np.uint8) + 16 * (line - 2)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{line}.png")
        report = " ".join(random.choice(words, size=2 + line))
        made.append(Row(line, folder / f"{line}.png", report, label="ab"[line % 2]))
    return made


@pytest.fixture
def everything(model, processor, rows):
    """Similarities of all images of the rows with all their reports."""
    return similarities(model, processor, [row.image for row in rows], [row.report for row in rows])
