"""GloriaProcessor: the words are those that the released code merges, and what it saves is what it loads."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoProcessor, BertTokenizerFast, PreTrainedTokenizerFast

from gloria import GloriaImageProcessor, GloriaProcessor


def merged_at_hashes(tokenizer, input_ids):
    """The rule of the released code: a piece "##..." belongs to the piece before it, and [SEP] ends the words."""
    ids, word = [], -1
    for token in tokenizer.convert_ids_to_tokens(input_ids):
        if token == "[SEP]" or -1 in ids:
            ids.append(-1)
            continue
        word += not token.startswith("##")
        ids.append(word)
    return ids


def test_words_are_those_of_the_released_code(processor, tokenizer, reports):
    batch = processor(text=reports)
    expected = [merged_at_hashes(tokenizer, row) for row in batch["input_ids"].tolist()]
    assert batch["word_ids"].tolist() == expected
    assert any(expected[0].count(word) > 1 for word in expected[0] if word >= 0), "no word here falls into pieces"


def test_shapes_and_dtypes(processor, pictures, reports):
    batch = processor(images=pictures, text=reports)
    assert batch["pixel_values"].shape == (4, 3, 64, 64)
    assert batch["pixel_values"].dtype == torch.float32
    for name in ("input_ids", "attention_mask", "token_type_ids", "word_ids"):
        assert batch[name].shape == batch["input_ids"].shape
        assert batch[name].dtype == torch.int64
    assert set(batch) == set(processor.model_input_names)


def test_one_report_and_one_image_are_a_batch_of_one(processor, pictures, reports):
    single, listed = processor(images=pictures[0], text=reports[0]), processor(images=pictures[:1], text=reports[:1])
    assert all(torch.equal(single[name], listed[name]) for name in listed)
    assert set(processor(text=reports[0])) == {"input_ids", "attention_mask", "token_type_ids", "word_ids"}
    assert set(processor(images=pictures[0])) == {"pixel_values"}


def test_an_empty_report_is_the_word_cls(processor):
    assert processor(text="")["word_ids"].tolist() == [[0, -1]]
    assert processor.words(**{name: processor(text="")[name] for name in ("input_ids", "word_ids")}) == [["[CLS]"]]


def test_words_as_strings(processor):
    batch = processor(text=["Small left pleural effusion.", "No pneumothorax."])
    assert processor.words(batch["input_ids"], batch["word_ids"]) == [
        ["[CLS]", "small", "left", "pleural", "effusion", "."],
        ["[CLS]", "no", "pneumothorax", "."],
    ]


def test_long_reports_are_cut_to_97_pieces_as_released(processor):
    report = "effusion " * 200
    assert processor(text=report)["input_ids"].shape == (1, 97)
    assert processor(text=report, max_length=20)["input_ids"].shape == (1, 20)
    assert processor(text="no", padding="max_length")["input_ids"].shape == (1, 97)


def test_a_byte_level_tokenizer_without_hashes_gives_the_same_words():
    """RoBERTa's kind: every character a piece here, the first special token <s> in the place of [CLS]."""
    characters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", *characters])}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    raw.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        cls_token="<s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=128,
    )
    batch = GloriaProcessor(GloriaImageProcessor(), tokenizer)(text=["no new mass.", "no"])
    expected = [0, *[1] * 3, *[2] * 4, *[3] * 5, 4, -1]
    assert batch["word_ids"].tolist() == [expected, [0, 1, 1, 1, *[-1] * 11]]


def test_round_trip(tmp_path, no_network, processor, tokenizer, pictures, reports):
    saved = GloriaProcessor(processor.image_processor, tokenizer, max_length=33)
    saved.save_pretrained(tmp_path)
    for loaded in (GloriaProcessor.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)):
        assert type(loaded) is GloriaProcessor
        assert loaded.max_length == 33
        assert loaded.image_processor.to_dict() == saved.image_processor.to_dict()
        expected, actual = saved(images=pictures, text=reports), loaded(images=pictures, text=reports)
        assert all(torch.equal(actual[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "images and text are both None; give at least one"),
        ({"text": []}, ValueError, "text is empty; expected one report or more"),
        ({"text": ["no", float("nan")]}, TypeError, r"text\[1\] is nan; expected a string"),
        ({"text": "no", "max_length": 2}, ValueError, r"max_length is 2; expected 3 \(room for one word\) to 128"),
    ],
)
def test_bad_arguments_are_named(processor, arguments, error, message):
    with pytest.raises(error, match=message):
        processor(**arguments)


def test_bad_parts_are_named(processor, tokenizer):
    with pytest.raises(ValueError, match=r"max_length is 500; expected 3 .* to 128"):
        GloriaProcessor(processor.image_processor, tokenizer, max_length=500)
    with pytest.raises(TypeError, match="BertTokenizer"):
        GloriaProcessor(tokenizer, processor.image_processor)
    assert isinstance(tokenizer, BertTokenizerFast)
