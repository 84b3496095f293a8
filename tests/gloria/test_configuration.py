"""GloriaConfig: its defaults are the released model, it survives a save, and impossible settings are named."""

import json
from dataclasses import asdict

import pytest
from transformers import AutoConfig, BertConfig, CLIPConfig, Dinov2Config, ResNetConfig, SwinConfig, ViTConfig

from gloria import GloriaConfig
from gloria_ops import LocalScore


def test_defaults_are_the_released_model():
    config = GloriaConfig()
    assert isinstance(config.image_config, ResNetConfig)
    assert list(config.image_config.depths) == [3, 4, 6, 3]
    assert isinstance(config.text_config, BertConfig)
    assert config.text_config.hidden_size == 768
    assert config.score == LocalScore.released()
    assert (config.projection_dim, config.region_stage, config.last_layers) == (768, "stage3", 4)
    assert config.local_loss == "contrastive"
    assert (config.local_weight, config.global_weight, config.global_scale) == (1.0, 1.0, 10.0)


@pytest.mark.parametrize("score", [None, {"word_scale": 6.0}, LocalScore.maxsim(), LocalScore.scan_i2t()])
def test_round_trip(tmp_path, no_network, score):
    saved = GloriaConfig(local_score=score, last_layers=2, local_weight=0.5, projection_dim=128, id2label={0: "a"})
    saved.save_pretrained(tmp_path)
    json.loads((tmp_path / "config.json").read_text())
    for loaded in (GloriaConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert type(loaded) is GloriaConfig
        expected, actual = saved.to_dict(), loaded.to_dict()
        expected.pop("_name_or_path", None), actual.pop("_name_or_path", None)
        assert actual == expected
        assert loaded.score == saved.score


def test_sub_configurations_are_declared():
    """transformers hands settings such as the attention implementation down through this declaration."""
    config = GloriaConfig()
    config._attn_implementation = "eager"
    assert config.text_config._attn_implementation == "eager"
    assert config.get_text_config() is config.text_config


def test_a_partial_score_changes_the_released_one():
    config = GloriaConfig(local_score={"attention_scale": 9.0})
    assert config.score == LocalScore(**{**asdict(LocalScore.released()), "attention_scale": 9.0})


def test_the_caller_keeps_his_configuration():
    given = ResNetConfig()
    before = given.to_dict()
    assert GloriaConfig(image_config=given).image_config.out_features == ["stage3", "stage4"]
    assert given.to_dict() == before


@pytest.mark.parametrize(
    ("image_config", "stage"),
    [(ResNetConfig(), "stage3"), (SwinConfig(), "stage3"), (ViTConfig(), None), (Dinov2Config(), None)],
)
def test_regions_come_from_stage_3_of_a_pyramid_and_from_patches_otherwise(image_config, stage):
    assert GloriaConfig(image_config=image_config).region_stage == stage


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"projection_dim": 0}, ValueError, "projection_dim is 0; expected a width of at least 1"),
        ({"last_layers": 14}, ValueError, r"last_layers is 14, but the text encoder has 13 layers .* choose 1 to 13"),
        ({"local_weight": -1.0}, ValueError, "local_weight is -1.0; expected a finite number of at least 0"),
        ({"local_weight": 0, "global_weight": 0}, ValueError, "both 0, so nothing is trained; raise one"),
        ({"local_loss": "hinge"}, ValueError, "local_loss is 'hinge'; expected 'contrastive' or 'sigmoid'"),
        ({"local_bias": float("nan")}, ValueError, "local_bias is nan; expected a finite number, such as -10"),
        ({"global_scale": float("inf")}, ValueError, "global_scale is inf; expected a finite number above 0"),
        ({"region_stage": "stage9"}, ValueError, r"region_stage is 'stage9', but ResNetConfig has the stages \['stem'"),
        ({"image_config": ViTConfig(), "region_stage": "stage3"}, ValueError, "ViTConfig has the stages \\[\\]"),
        (
            {"image_config": CLIPConfig()},
            ValueError,
            r"CLIPConfig, with neither stages nor a patch_size; .* vision_config",
        ),
        ({"text_config": {"hidden_size": 8}}, TypeError, 'text_config is .* its dict with "model_type"'),
        (
            {"image_config": "microsoft/resnet-50"},
            TypeError,
            "image_config is 'microsoft/resnet-50'; expected a transf",
        ),
        ({"local_score": {"tau": 1}}, TypeError, r"local_score has the unknown fields \['tau'\]; LocalScore has \['"),
        ({"local_score": {"pool": "median"}}, ValueError, "median"),
    ],
)
def test_impossible_settings_are_named(settings, error, message):
    with pytest.raises(error, match=message):
        GloriaConfig(**settings)
