"""A GLoRIA for two CPU cores, from scratch: a four-block ResNet, a one-layer BERT, a vocabulary of its own."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from tokenizers import BertWordPieceTokenizer
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from transformers import BertConfig, BertTokenizer, ResNetConfig

from gloria.configuration import GloriaConfig
from gloria.images import GloriaImageProcessor
from gloria.modeling import GloriaModel
from gloria.processing import GloriaProcessor
from gloria_ops import LocalScore

TEXT_WIDTH = 128
# Not the text's own width: words of the shared width are not projected.
SHARED_WIDTH = 96
# Chosen by single runs from scratch (bench/README.md): with a pool of the size of a cosine the local loss learned
# nearly as fast as the global one, with the released pool hardly. One layer of BERT is to mix the words less.
SCORE = replace(LocalScore.released(), word_norm="none", attention_scale=10.0, pool_divide=True, logit_scale=20.0)
PIXELS = 160  # 10 x 10 regions in stage 3
LONGEST = 97  # word pieces of a report, as in the released code
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MOST_WORDS = 4000


def small_model(
    reports: Sequence[str], seed: int = 0, pixels: int = PIXELS, **fields: Any
) -> tuple[GloriaModel, GloriaProcessor]:
    """Make a new model and its processor, with a vocabulary of the reports.

    Args:
        reports: those that the model will be trained on, at least one.
        seed: of the initial weights.
        pixels: side of the square that the model sees, a multiple of 16, which is one region. Default 160.
        fields: of `GloriaConfig`, such as those of an objective.

    Raises:
        ValueError: no report.
    """
    if not len(reports):
        raise ValueError("reports is empty; expected the reports to train on, which the vocabulary is made of")
    processor = GloriaProcessor(GloriaImageProcessor(crop_size=pixels), _tokenizer(reports), max_length=LONGEST)
    torch.manual_seed(seed)
    return GloriaModel(small_config(len(processor.tokenizer), **fields)), processor


def small_config(vocabulary: int, **fields: Any) -> GloriaConfig:
    """Return the configuration of such a model, for a vocabulary of so many word pieces, with other fields as given."""
    return GloriaConfig(
        image_config=ResNetConfig(
            embedding_size=32, hidden_sizes=[32, 64, 128, 128], depths=[1, 1, 1, 1], layer_type="basic"
        ),
        text_config=BertConfig(
            vocab_size=vocabulary,
            hidden_size=TEXT_WIDTH,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=2 * TEXT_WIDTH,
            max_position_embeddings=LONGEST,
        ),
        projection_dim=SHARED_WIDTH,
        last_layers=2,  # the embeddings included: words mean something from the first step
        normalize_local=True,
        local_score=SCORE,
        **fields,
    )


def _tokenizer(reports: Sequence[str]) -> BertTokenizer:
    """Make BERT's tokenizer with the words that occur at least twice, and single characters for all others.

    Counted here, since the trainer of `tokenizers` breaks ties arbitrarily: a seed would not make a run repeatable.
    """
    normalizer, splitter = BertNormalizer(lowercase=True), BertPreTokenizer()
    counts = Counter(
        word for report in reports for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(report))
    )
    characters = sorted({character for word in counts for character in word})
    words = sorted((word for word in counts if counts[word] > 1), key=lambda word: (-counts[word], word))
    tokens = dict.fromkeys([*SPECIAL, *characters, *(f"##{each}" for each in characters), *words[:MOST_WORDS]])
    vocabulary = {token: index for index, token in enumerate(tokens)}
    pieces = BertWordPieceTokenizer(vocabulary, lowercase=True)
    return BertTokenizer(tokenizer_object=pieces._tokenizer, model_max_length=LONGEST)
