"""Released checkpoints: every name has its place, and the converted model computes what the released one did."""

import json
import os
import pickle
import re
import sys
import types
import zipfile

import pytest
import torch
from omegaconf import OmegaConf
from released_checkpoint import random_weights, released_image, released_pieces, released_shapes, released_words
from tokenizers import BertWordPieceTokenizer
from torch.nn import functional as F
from transformers import BertConfig, BertTokenizerFast, ResNetConfig, RobertaConfig
from typer.testing import CliRunner

from gloria import GloriaConfig, GloriaImageProcessor, GloriaModel, GloriaProcessor
from gloria.cli import app
from gloria.convert import Settings, convert, model_of, read_checkpoint, released_names
from gloria.convert.names import UNUSED
from gloria.messages import shown
from gloria_ops import LocalScore

# The layout of configs/chexpert_pretrain_config.yaml in the released code, with the ResNet-50 and both losses.
HYPER_PARAMETERS = {
    "phase": "pretrain",
    "lightning": {"trainer": {"gpus": "1", "lr": 5e-5, "precision": 16}},
    "model": {
        "gloria": {"local_loss_weight": 1.0, "global_loss_weight": 1.0, "temp1": 4.0, "temp2": 5.0, "temp3": 10.0},
        "vision": {"model_name": "resnet_50", "freeze_cnn": False, "pretrained": True},
        "text": {
            "bert_type": "emilyalsentzer/Bio_ClinicalBERT", "last_n_layers": 4, "aggregate_method": "sum",
            "norm": False, "embedding_dim": 768, "freeze_bert": False, "agg_tokens": True,
        },
    },
    "data": {"text": {"word_num": 97, "full_report": False}, "image": {"imsize": 256}},
    "transforms": {"norm": "half", "random_crop": {"crop_size": 224}, "random_affine": {"scale": [0.95, 1.05]}},
}  # fmt: skip
REPORTS = ["small left pleural effusion heart size is normal", "no pneumothorax", "cardiomegaly with mild oedema"]
# Widths of a hundredth, depths and names as released.
SMALL = {"stem": 8, "planes": (4, 8, 12, 16), "hidden": 24, "intermediate": 40, "vocabulary": 60, "positions": 64}
IMAGE = ResNetConfig(embedding_size=8, hidden_sizes=[16, 32, 48, 64])


def text_config(vocabulary=60, heads=2):
    return BertConfig(
        vocab_size=vocabulary,
        hidden_size=24,
        intermediate_size=40,
        num_attention_heads=heads,
        max_position_embeddings=64,
    )


@pytest.fixture(scope="module")
def weights():
    return random_weights(released_shapes(**SMALL))


@pytest.fixture(scope="module")
def in_double(weights):
    return {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}


@pytest.fixture(scope="module")
def converted(weights):
    return model_of(weights, Settings(), text_config(), IMAGE).double()


@pytest.fixture(scope="module")
def tokenizer():
    trained = BertWordPieceTokenizer(lowercase=True)
    trained.train_from_iterator(REPORTS, vocab_size=60, show_progress=False)
    return BertTokenizerFast(vocab=trained.get_vocab(), do_lower_case=True, model_max_length=64)


def saved(path, weights, hyper_parameters=None, **others):
    """A checkpoint with what Lightning 1.1 and OmegaConf put beside the weights."""
    module = types.ModuleType("pytorch_lightning.callbacks.model_checkpoint")
    callback = type("ModelCheckpoint", (), {"__module__": module.__name__})
    module.ModelCheckpoint = callback
    held = sys.modules.get(module.__name__)
    sys.modules[module.__name__] = module
    settings = OmegaConf.create(HYPER_PARAMETERS if hyper_parameters is None else hyper_parameters)
    try:
        torch.save(
            {
                "epoch": 12,
                "global_step": 4012,
                "pytorch-lightning_version": "1.1.4",
                "callbacks": {callback: {"monitor": "val_loss", "best_model_score": torch.tensor(3.2)}},
                "optimizer_states": [
                    {"state": {0: {"step": 3, "exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 1}]}
                ],
                "lr_schedulers": [],
                "state_dict": {f"gloria.{name}": tensor for name, tensor in weights.items()},
                "hparams_name": "cfg",
                "hyper_parameters": settings,
                "hparams_type": type(settings),
                **others,
            },
            path,
        )
    finally:
        if held is None:
            del sys.modules[module.__name__]
        else:
            sys.modules[module.__name__] = held
    return path


# The table.


def test_every_released_name_has_its_place_at_full_size():
    """On the meta device: names and shapes of the released ResNet-50 and BERT base, counted as those have them."""
    shapes = released_shapes()
    assert len([name for name in shapes if name.startswith("img_encoder.model.")]) == 318  # 53 convolutions, 53 norms
    assert len([name for name in shapes if name.startswith("text_encoder.model.")]) == 200  # 199, and position_ids
    with torch.device("meta"):
        model = GloriaModel(GloriaConfig(text_config=BertConfig(vocab_size=28996)))
    ours = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    names = released_names(model.config.image_config, 12)
    assert set(names) | set(UNUSED) == set(shapes)
    assert sorted(names.values()) == sorted(ours)
    assert {name: ours[names[name]] for name in names} == {name: shapes[name] for name in names}


def test_settings_without_a_word_are_the_released_ones():
    settings = Settings.of({})
    assert settings == Settings() == Settings.of(HYPER_PARAMETERS)
    assert settings.score() == LocalScore.released()
    config = settings.image_config()
    assert (list(config.depths), list(config.hidden_sizes)) == ([3, 4, 6, 3], [256, 512, 1024, 2048])
    assert settings.longer_side == 342


# The same numbers.


@pytest.mark.parametrize("side", [224, 299])
def test_the_image_encoder_computes_what_the_released_one_did(in_double, converted, side):
    pixels = torch.rand(2, 3, side, side, dtype=torch.float64) * 2 - 1
    whole, regions = released_image(in_double, pixels)
    assert regions.shape == (2, 24, 19, 19)
    seen = F.interpolate(pixels, size=(299, 299), mode="bilinear", align_corners=True)
    with torch.no_grad():
        our_whole, our_regions = converted.get_image_features(seen)
    assert regions.std() > 0.1
    torch.testing.assert_close(our_regions, regions, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(our_whole, whole, rtol=1e-9, atol=1e-10)


def test_the_stride_lies_where_the_released_one_has_it(weights, in_double):
    """With the stride in the 1 x 1 convolution, as before version 1.5, the names and shapes are the same."""
    earlier = ResNetConfig(embedding_size=8, hidden_sizes=[16, 32, 48, 64], downsample_in_bottleneck=True)
    model = model_of(weights, Settings(), text_config(), earlier).double()
    pixels = torch.rand(1, 3, 299, 299, dtype=torch.float64)
    with torch.no_grad():
        _, regions = model.get_image_features(pixels)
    assert (regions - released_image(in_double, pixels)[1]).abs().max() > 0.1


@pytest.mark.parametrize(("name", "depths"), [("resnet_18", (2, 2, 2, 2)), ("resnet_34", (3, 4, 6, 3))])
def test_smaller_resnets(name, depths):
    """Of basic blocks, with no convolution around those of the first stage."""
    settings = Settings(image_encoder=name)
    config = settings.image_config()
    config.embedding_size, config.hidden_sizes = 8, [8, 12, 16, 20]
    shapes = released_shapes(**{**SMALL, "planes": (8, 12, 16, 20)}, depths=depths, bottleneck=False)
    weights = random_weights(shapes)
    model = model_of(weights, settings, text_config(), config).double()
    pixels = torch.rand(1, 3, 299, 299, dtype=torch.float64)
    whole, regions = released_image(
        {key: each.double() if each.is_floating_point() else each for key, each in weights.items()}, pixels, depths
    )
    with torch.no_grad():
        our_whole, our_regions = model.get_image_features(pixels)
    torch.testing.assert_close(our_regions, regions, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(our_whole, whole, rtol=1e-9, atol=1e-10)


def test_the_text_encoder_computes_what_the_released_one_did(in_double, converted, tokenizer):
    """Words of merged pieces, without [SEP]; the sentence up to a positive factor, which the cosine removes."""
    batch = tokenizer(REPORTS, padding=True, return_tensors="pt")
    processed = GloriaProcessor(GloriaImageProcessor(), tokenizer, max_length=64)(text=REPORTS)
    assert torch.equal(processed["input_ids"], batch["input_ids"])
    with torch.no_grad():
        sentences, words, lengths = converted.get_text_features(**processed)
    for row, length in enumerate(lengths.tolist()):
        ids = batch["input_ids"][row][batch["attention_mask"][row] == 1]
        pieces = released_pieces(in_double, ids, heads=2)
        expected, names = released_words(pieces, tokenizer.convert_ids_to_tokens(ids))
        assert names == ["[CLS]", *REPORTS[row].split()]
        assert any(token.startswith("##") for token in tokenizer.convert_ids_to_tokens(ids))
        torch.testing.assert_close(words[row, :length], expected, rtol=1e-9, atol=1e-10)
        released_sentence = torch.cat([expected, pieces[-1:]]).sum(0) / 97  # its mean counts the zeros of the padding
        ratio = sentences[row] / released_sentence
        torch.testing.assert_close(ratio, torch.full_like(ratio, 97 / len(ids)), rtol=1e-8, atol=0)


# Reading.


def test_a_checkpoint_round_trips(weights, tokenizer, tmp_path):
    loaded, hyper_parameters = read_checkpoint(saved(tmp_path / "released.ckpt", weights))
    assert hyper_parameters == HYPER_PARAMETERS
    assert set(loaded) == set(weights)
    model = model_of(loaded, Settings.of(hyper_parameters), text_config(), IMAGE)
    model.save_pretrained(tmp_path / "out")
    again = GloriaModel.from_pretrained(tmp_path / "out").state_dict()
    for released, name in released_names(IMAGE, 12).items():
        assert torch.equal(again[name], weights[released]), name
    assert all(tensor.dtype == torch.float32 for tensor in again.values() if tensor.is_floating_point())


class Danger:
    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return os.mkdir, (str(self.witness),)


class Unknown:
    pass


def test_what_could_run_is_refused_and_does_not_run(weights, tmp_path):
    path = saved(tmp_path / "bad.ckpt", weights, extra=[Danger(tmp_path / "ran"), Unknown()])
    with pytest.raises(ValueError, match=r"bad\.ckpt is refused: it names posix\.mkdir, \S*test_convert\.Unknown, w"):
        read_checkpoint(path)
    assert not (tmp_path / "ran").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "ran").exists()  # so it would have


def test_what_is_allowed_is_not_imported(weights, tmp_path):
    """Names of Lightning and OmegaConf become empty classes, whatever is installed under those names."""
    loaded = torch.serialization.get_unsafe_globals_in_checkpoint(saved(tmp_path / "a.ckpt", weights))
    assert "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint" in loaded
    assert "omegaconf.dictconfig.DictConfig" in loaded
    before = torch.serialization.get_safe_globals()
    sabotage = types.ModuleType("omegaconf.dictconfig")
    sabotage.__getattr__ = lambda name: pytest.fail(f"{name} was looked up")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "omegaconf.dictconfig", sabotage)
        assert read_checkpoint(tmp_path / "a.ckpt")[1] == HYPER_PARAMETERS
    assert set(torch.serialization.get_safe_globals()) == set(before)  # nothing stays allowed


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no archive", "is not a checkpoint of torch 1.6 or later"),
        ({"model": {}}, r"holds the keys \['model'\]; expected a Lightning checkpoint, whose state_dict holds dense"),
        ({"state_dict": {"a": 1}}, r"holds the keys \['state_dict'\]; expected a Lightning checkpoint"),
        ([torch.ones(1)], "holds a list; expected a Lightning checkpoint"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    path = tmp_path / "file.ckpt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(ValueError, match=message):
        read_checkpoint(path)


def test_a_truncated_file_is_refused(weights, tmp_path):
    whole = saved(tmp_path / "whole.ckpt", weights).read_bytes()
    (tmp_path / "half.ckpt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"half\.ckpt is not a checkpoint of torch 1.6 or later"):
        read_checkpoint(tmp_path / "half.ckpt")
    with pytest.raises(FileNotFoundError, match=r"none\.ckpt does not exist; expected a checkpoint that the released"):
        read_checkpoint(tmp_path / "none.ckpt")


def test_everything_that_does_not_fit_is_named(weights):
    broken = dict(weights)
    gone = [name for name in weights if name.startswith("text_encoder.model.encoder.layer.11.")]
    for name in [*gone, "img_encoder.local_embedder.weight"]:
        del broken[name]
    broken["img_encoder.model.fc.weight"] = broken["other.bias"] = torch.ones(1)
    broken["img_encoder.model.conv1.weight"] = torch.ones(8, 1, 7, 7)
    broken["text_encoder.model.embeddings.word_embeddings.weight"] = torch.ones(61, 24)
    with pytest.raises(ValueError, match="the weights do not fit") as caught:
        model_of(broken, Settings(), text_config(), IMAGE)
    message = str(caught.value)
    missing, unknown, shapes = re.split(r"\d+ (?:missing|unknown|of another shape):\n", message)[1:]
    assert missing.split() == sorted([*gone, "img_encoder.local_embedder.weight"])
    assert len(gone) == 16
    assert "17 missing:" in message
    assert unknown.split() == ["img_encoder.model.fc.weight", "other.bias"]
    assert [line.strip() for line in shapes.splitlines()] == [
        "img_encoder.model.conv1.weight (8, 1, 7, 7), expected (8, 3, 7, 7)",
        "text_encoder.model.embeddings.word_embeddings.weight (61, 24), expected (60, 24)",
    ]


def test_only_bert_has_the_names(weights):
    with pytest.raises(
        ValueError, match="the text encoder is a 'roberta'; expected a BERT, which the released code has"
    ):
        model_of(weights, Settings(), RobertaConfig(hidden_size=24, num_attention_heads=2), IMAGE)


def test_unused_names_may_be_there_or_not(weights):
    without = {name: tensor for name, tensor in weights.items() if name not in UNUSED}
    assert len(weights) - len(without) == 3
    model_of(without, Settings(), text_config(), IMAGE)


def changed(path, value):
    hyper_parameters = json.loads(json.dumps(HYPER_PARAMETERS))
    *above, last = path.split(".")
    node = hyper_parameters
    for name in above:
        node = node[name]
    node[last] = value
    return hyper_parameters


@pytest.mark.parametrize(
    ("path", "value", "field", "expected"),
    [
        ("model.gloria.temp1", 9.0, "attention_scale", 9.0),
        ("model.gloria.temp2", 6.0, "word_scale", 6.0),
        ("model.gloria.temp3", 7.0, "logit_scale", 7.0),
        ("model.gloria.local_loss_weight", 0.0, "local_weight", 0.0),
        ("model.text.last_n_layers", 2, "last_layers", 2),
        ("data.text.word_num", 60, "max_length", 60),
        ("data.image.imsize", 448, "longer_side", 598),
        ("transforms.random_crop", None, "longer_side", 299),
        ("transforms.norm", "imagenet", "image_mean", (0.485, 0.456, 0.406)),
        ("model.vision.model_name", "resnet_18", "image_encoder", "resnet_18"),
        ("model.text.bert_type", "bert-base-uncased", "text_encoder", "bert-base-uncased"),
    ],
)
def test_settings_are_read(path, value, field, expected):
    assert getattr(Settings.of(changed(path, value)), field) == expected


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("model.text.norm", True, r"model\.text\.norm is True, expected False"),
        ("model.text.aggregate_method", "mean", r"aggregate_method is 'mean', expected 'sum'"),
        ("model.text.agg_tokens", False, r"agg_tokens is False, expected True"),
        ("model.text.last_n_layers", 1, r"last_n_layers is 1, expected 2 or more"),
        (
            "model.vision.model_name",
            "densenet_121",
            r"model_name is 'densenet_121', expected 'resnet_18' or 'res",
        ),
        ("transforms.norm", None, r"transforms\.norm is None, expected 'half' or 'imagenet'"),
    ],
)
def test_other_training_is_refused(path, value, message):
    with pytest.raises(ValueError, match=f"trained in a way that GloriaModel does not have: .*{message}"):
        Settings.of(changed(path, value))


# The command.


@pytest.fixture(scope="module")
def resnet50(tmp_path_factory, tokenizer):
    """A checkpoint with a whole ResNet-50 and a small BERT, and the directory that names the latter."""
    folder = tmp_path_factory.mktemp("released")
    vocabulary = len(tokenizer)
    shapes = released_shapes(hidden=24, intermediate=40, vocabulary=vocabulary, positions=64)
    text_config(vocabulary).save_pretrained(folder / "bert")
    tokenizer.save_pretrained(folder / "bert")
    weights = random_weights(shapes)
    return saved(folder / "released.ckpt", weights, changed("data.text.word_num", 50)), folder / "bert", weights


def test_the_command(resnet50, tmp_path, no_network):
    checkpoint, bert, weights = resnet50
    arguments = ["convert", str(checkpoint), str(tmp_path / "out"), "--text-encoder", str(bert)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert re.search(r"wrote a model of \d+\.\d million parameters and its processor to ", result.output)
    assert (tmp_path / "out" / "model.safetensors").exists()
    model, processor = GloriaModel.from_pretrained(tmp_path / "out"), GloriaProcessor.from_pretrained(tmp_path / "out")
    assert torch.equal(model.region_projection.weight, weights["img_encoder.local_embedder.weight"])
    assert model.config.score == LocalScore.released()
    assert (processor.max_length, processor.image_processor.size) == (50, 342)
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 2
    assert "already holds a model; name another folder" in again.output


def test_a_text_encoder_that_is_not_there_is_named(resnet50, tmp_path, monkeypatch):
    with pytest.raises(OSError, match=r"the text encoder '\S*/nowhere' cannot be read, .* \(--text-encoder\)"):
        convert(resnet50[0], str(tmp_path / "nowhere"), local_files_only=True)
    with pytest.raises(OSError, match="the text encoder 'emilyalsentzer/Bio_ClinicalBERT' cannot be read"):
        convert(resnet50[0], local_files_only=True)


# Damaged files.


def archive(path, data):
    """A checkpoint of torch whose pickle is this."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", data)
        file.writestr("archive/version", "3\n")
    return path


def self_referencing():
    held = {}
    held["held"] = held
    return held


def multiplying():
    held = [1.0]
    for _ in range(60):
        held = [held, held]
    return {"model": held}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80",
        b"\x80\x02.",
        b"\x80\x02]q\x00h\x01.",  # what was never kept
        b"\x80\x02(.",
        b"\x80\x02U\xff.",
        b"\x80\x02cos\nsystem\n.",
        b"\x80\x02ccollections\ndefaultdict\n)R.",
        b"\x80\x02K\x01K\x02\x86Q.",  # a storage that is none
        b"\x80\x02\x8a\xff.",
        pickle.dumps("\x1b[2J" * 1000, 2),
    ],
)
@pytest.mark.parametrize("packed", [True, False])
def test_malformed_pickles_end_in_a_line(tmp_path, data, packed):
    path = tmp_path / "bad.ckpt"
    archive(path, data) if packed else path.write_bytes(data)
    result = CliRunner().invoke(app, ["convert", str(path), str(tmp_path / "out")])
    assert result.exit_code == 2, result.output
    assert re.fullmatch(r"gloria: \S+bad\.ckpt (is|holds|cannot) [^\n\x1b]+\n", result.output), result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("hyper_parameters", [self_referencing(), {"model": [self_referencing()]}, multiplying()])
def test_hyper_parameters_without_end_are_refused(tmp_path, hyper_parameters):
    path = tmp_path / "a.ckpt"
    torch.save({"state_dict": {"a": torch.ones(1)}, "hyper_parameters": hyper_parameters}, path)
    with pytest.raises(ValueError, match=r"hyper_parameters that hold themselves, or more than 100,000 values; save"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "state_dict", [{1: torch.ones(1)}, {"a": torch.eye(2).to_sparse()}, {"a": None}, self_referencing()]
)
def test_weights_that_are_none_are_refused(tmp_path, state_dict):
    torch.save({"state_dict": state_dict}, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"a\.ckpt holds the keys \['state_dict'\]; expected a Lightning checkpoint"):
        read_checkpoint(tmp_path / "a.ckpt")


@pytest.mark.parametrize(
    ("path", "values", "expected"),
    [
        ("model.gloria.temp1", [0, -1, float("nan"), float("inf"), "4", None, True, 10**400], "a number above 0"),
        ("model.gloria.local_loss_weight", [-1, float("nan"), "1", None], "a number from 0"),
        ("data.image.imsize", [0, 2.5, "256", None, float("nan")], "a whole number from 1"),
        ("transforms.random_crop.crop_size", [0, -224, "224"], "a whole number from 1"),
        ("data.text.word_num", [0, 9.5, "97"], "a whole number from 1"),
        ("model.text.bert_type", [5, None, ["bert"]], "a name"),
    ],
)
def test_settings_that_no_model_can_have_are_named(path, values, expected):
    for value in values:
        with pytest.raises(ValueError, match=rf"{re.escape(path)} is {re.escape(shown(value))}, expected {expected}"):
            Settings.of(changed(path, value))
