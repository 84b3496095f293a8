"""Makes a small GLoRIA that two CPU cores can train: a four-block ResNet, a one-layer BERT, its own vocabulary."""

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
# Differs from the text's width, so that words are projected.
SHARED_WIDTH = 96
# Chosen by single runs from scratch (bench/README.md). With a pool in the range of a cosine the local loss learned
# nearly as fast as the global one; with the released pool it barely learned. One layer of BERT mixes the words less.
SCORE = replace(LocalScore.released(), word_norm="none", attention_scale=10.0, pool_divide=True, logit_scale=20.0)
STRIDE = 16  # pixels of a side of a region in stage 3
PIXELS = 10 * STRIDE
LONGEST = 97  # most word pieces of a report, as in the released code
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MOST_WORDS = 4000


def small_model(
    reports: Sequence[str],
    seed: int = 0,
    pixels: int = PIXELS,
    region_stage: str = "stage3",
    attention_scale: float = SCORE.attention_scale,
    **fields: Any,
) -> tuple[GloriaModel, GloriaProcessor]:
    """Make a new model and its processor, with a vocabulary made of the reports.

    Args:
        reports: at least one report to train on.
        seed: seed of the initial weights.
        pixels: side of the square that the model sees, a multiple of 16. Default 160.
        region_stage: stage of the ResNet that gives the regions: "stage3", of 16 pixels a side, or "stage2", of 8.
        attention_scale: of the local score.
        fields: other fields of `GloriaConfig`, such as those of an objective.

    Raises:
        ValueError: no report.
    """
    if not len(reports):
        raise ValueError("reports is empty; expected the reports to train on, which the vocabulary is made of")
    processor = GloriaProcessor(GloriaImageProcessor(crop_size=pixels), _tokenizer(reports), max_length=LONGEST)
    torch.manual_seed(seed)
    return GloriaModel(small_config(len(processor.tokenizer), region_stage, attention_scale, **fields)), processor


def small_config(
    vocabulary: int, region_stage: str = "stage3", attention_scale: float = SCORE.attention_scale, **fields: Any
) -> GloriaConfig:
    """Return the configuration of the small model for a vocabulary of this many word pieces, and other fields."""
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
        last_layers=2,  # includes the embeddings, so that words differ from the first step on
        region_stage=region_stage,
        normalize_local=True,
        local_score=replace(SCORE, attention_scale=attention_scale),
        **fields,
    )


def _tokenizer(reports: Sequence[str]) -> BertTokenizer:
    """Make BERT's tokenizer with the words that occur at least twice, and single characters for all others.

    The trainer of `tokenizers` breaks ties arbitrarily, which no seed would make repeatable: words are counted here.
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
