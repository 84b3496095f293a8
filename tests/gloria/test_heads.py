"""Heads: what they take from a run, their losses, what is frozen, and pipelines that answer in pixels of the image."""

import logging
import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSemanticSegmentation,
    Dinov2Config,
    SwinConfig,
    Trainer,
    TrainingArguments,
    pipeline,
)
from transformers.modeling_outputs import SemanticSegmenterOutput

from gloria import GloriaConfig, GloriaForImageClassification, GloriaForSemanticSegmentation, GloriaImageProcessor
from gloria.heads import IGNORED

KINDS = [GloriaForImageClassification, GloriaForSemanticSegmentation]
NAN = float("nan")


@pytest.fixture
def saved(model, processor, tmp_path):
    """A run folder, whose running statistics are not those of a new model."""
    for name, values in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            values.uniform_(0.5, 1.5)
    model.save_pretrained(tmp_path / "run")
    processor.save_pretrained(tmp_path / "run")
    return tmp_path / "run"


def with_classes(config, count, **fields):
    return GloriaConfig.from_dict(config.to_dict() | {"id2label": {i: f"class {i}" for i in range(count)}} | fields)


@pytest.fixture
def labeled(kind_of_head):
    """A batch of two images with labels that no image carries twice."""
    torch.manual_seed(1)
    masks = torch.zeros(2, 64, 64, dtype=torch.int64)
    masks[0, 8:32, 8:40] = 1
    masks[1, 40:60, 20:50] = 1
    labels = masks if kind_of_head is GloriaForSemanticSegmentation else torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    return {"pixel_values": torch.randn(2, 3, 64, 64) + 3 * masks[:, None], "labels": labels}


class Twice(Dataset):
    def __init__(self, batch):
        self.batch = batch

    def __len__(self):
        return len(self.batch["labels"])

    def __getitem__(self, index):
        return {name: values[index] for name, values in self.batch.items()}


def trained(model, batch, folder, steps, rate):
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=2,
        learning_rate=rate,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    Trainer(model=model, args=arguments, train_dataset=Twice(batch)).train()
    return model


@pytest.mark.parametrize("kind_of_head", KINDS)
def test_takes_the_image_encoder_of_a_run_and_no_more_without_a_word(saved, model, caplog, no_network, kind_of_head):
    with caplog.at_level(logging.WARNING, logger="transformers"):
        logging.getLogger("transformers").addHandler(caplog.handler)
        head, loaded = kind_of_head.from_pretrained(saved, output_loading_info=True)
        logging.getLogger("transformers").removeHandler(caplog.handler)
    assert not loaded["unexpected_keys"]
    assert not [name for name in loaded["missing_keys"] if not name.startswith(("classifier.", "decoder."))]
    assert not re.findall("text_encoder|projection|UNEXPECTED", caplog.text)
    encoder = model.image_encoder.state_dict()
    assert {name: values.tolist() for name, values in head.image_encoder.state_dict().items()} == {
        name: values.tolist() for name, values in encoder.items()
    }


@pytest.mark.parametrize("kind_of_head", KINDS)
@pytest.mark.parametrize("image", ["resnet", "vit", "swin", "dinov2"])
def test_goes_on_any_image_encoder(image_configs, text_config, kind_of_head, labeled, tmp_path, image):
    others = {
        "swin": SwinConfig(image_size=64, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=2),
        "dinov2": Dinov2Config(
            image_size=64, patch_size=16, hidden_size=16, num_hidden_layers=1, num_attention_heads=2
        ),
    }
    config = with_classes(GloriaConfig({**image_configs, **others}[image], text_config, projection_dim=24), 2)
    head = kind_of_head(config).eval()
    output = head(**labeled)
    assert output.logits.shape == ((2, 2) if kind_of_head is GloriaForImageClassification else (2, 2, 64, 64))
    output.loss.backward()
    assert all(each.grad is not None for name, each in head.named_parameters() if "classifier" in name)
    head.save_pretrained(tmp_path)
    again = kind_of_head.from_pretrained(tmp_path).eval()
    assert torch.equal(again(labeled["pixel_values"]).logits, output.logits)


def test_the_configuration_that_is_given_stays_as_it_is(config):
    before = config.to_dict()
    GloriaForImageClassification(config)
    GloriaForSemanticSegmentation(config)
    assert config.to_dict() == before


@pytest.mark.parametrize("kind_of_head", KINDS)
def test_what_is_frozen_stays_the_same_to_the_bit_and_what_is_not_is_trained(saved, labeled, tmp_path, kind_of_head):
    head = kind_of_head.from_pretrained(saved)
    before = {name: values.clone() for name, values in head.state_dict().items()}
    head.freeze()
    trained(head, labeled, tmp_path, 3, 1e-2)
    changed = {name for name, values in head.state_dict().items() if not torch.equal(values, before[name])}
    assert changed
    assert not [name for name in changed if name.startswith("image_encoder.")]
    free = trained(kind_of_head.from_pretrained(saved), labeled, tmp_path, 3, 1e-2)
    moved = {name for name, values in free.state_dict().items() if not torch.equal(values, before[name])}
    assert [name for name in moved if name.endswith("running_mean")]
    assert [name for name in moved if name.startswith("image_encoder.") and name.endswith("weight")]


@pytest.mark.parametrize("kind_of_head", KINDS)
def test_learns_two_images_by_heart(config, labeled, tmp_path, kind_of_head):
    head = trained(kind_of_head(with_classes(config, 2)), labeled, tmp_path, 60, 1e-2).eval()
    answers = head(labeled["pixel_values"]).logits
    if kind_of_head is GloriaForImageClassification:
        assert torch.equal((answers > 0).float(), labeled["labels"])
    else:
        assert (answers.argmax(1) == labeled["labels"]).float().mean() > 0.97
        assert ((answers.argmax(1) == 1) & (labeled["labels"] == 1)).sum() > 0.8 * labeled["labels"].sum()


def test_the_multi_label_loss_leaves_out_what_is_not_labeled_and_weighs_positives(config):
    head = GloriaForImageClassification(with_classes(config, 3, pos_weight=[1.0, 2.0, 5.0])).double()
    logits = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([[1.0, NAN, 0.0], [NAN, 1.0, 1.0]])
    loss = head.loss(logits, labels)
    p = logits.detach().sigmoid().tolist()
    terms = [-np.log(p[0][0]), -np.log(1 - p[0][2]), -2 * np.log(p[1][1]), -5 * np.log(p[1][2])]
    assert loss.item() == pytest.approx(sum(terms) / 4, rel=1e-12)
    loss.backward()
    assert logits.grad.isfinite().all()
    assert (logits.grad[0, 1], logits.grad[1, 0]) == (0, 0)
    assert head.loss(logits, torch.full((2, 3), NAN)).item() == 0


def test_the_loss_of_exclusive_classes_leaves_out_what_is_not_labeled(config):
    head = GloriaForImageClassification(with_classes(config, 3, problem_type="single_label_classification"))
    logits = torch.randn(3, 3)
    expected = -torch.log_softmax(logits, 1)[[0, 2], [2, 0]].mean()
    torch.testing.assert_close(head.loss(logits, torch.tensor([2, -100, 0])), expected)
    assert head.loss(logits, torch.tensor([-100] * 3)).item() == 0
    torch.testing.assert_close(head.probabilities(logits).sum(1), torch.ones(3))


def test_the_segmentation_loss_is_cross_entropy_plus_what_dice_lacks(config):
    head = GloriaForSemanticSegmentation(with_classes(config, 2))
    logits, labels = torch.randn(2, 2, 4, 5, dtype=torch.float64), torch.randint(2, (2, 4, 5))
    labels[0, 0] = IGNORED
    p, kept = logits.softmax(1)[:, 1], labels != IGNORED
    entropy = -torch.where(labels == 1, p, 1 - p).log()[kept].mean()
    true = labels[kept].double()
    dice = (2 * (p[kept] * true).sum() + 1) / (p[kept].sum() + true.sum() + 1)
    torch.testing.assert_close(head.loss(logits, labels), entropy + 1 - dice)
    assert head.loss(logits, torch.full_like(labels, IGNORED)).isfinite()


@pytest.mark.parametrize(
    ("kind", "count", "fields", "message"),
    [
        (KINDS[0], 2, {"problem_type": "regression"}, "problem_type is 'regression'; expected 'multi_label_classific"),
        (KINDS[0], 2, {"pos_weight": [1.0]}, "pos_weight is [1.0] for 2 classes of a multi_label_classification"),
        (KINDS[0], 2, {"pos_weight": [1.0, 1.0], "problem_type": "single_label_classification"}, "of a single_label"),
        (KINDS[1], 1, {}, "there are 1 classes; expected the background, and at least one other"),
    ],
)
def test_impossible_classes_are_named(config, kind, count, fields, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        kind(with_classes(config, count, **fields))


@pytest.fixture
def errors(caplog):
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


@pytest.mark.parametrize("problem_type", ["multi_label_classification", "single_label_classification"])
def test_the_classification_pipeline_works_offline(config, tmp_path, no_network, errors, problem_type):
    head = GloriaForImageClassification(with_classes(config, 3, problem_type=problem_type)).eval()
    processor = GloriaImageProcessor(crop_size=64)
    head.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70), dtype=np.uint8))
    picture.save(tmp_path / "picture.png")
    found = pipeline("image-classification", str(tmp_path), device="cpu")(str(tmp_path / "picture.png"))
    with torch.no_grad():
        expected = head.probabilities(head(**processor(picture, return_tensors="pt")).logits)[0].tolist()
    assert {each["label"]: each["score"] for each in found} == pytest.approx(
        {f"class {i}": value for i, value in enumerate(expected)}, rel=1e-5
    )
    assert isinstance(AutoModelForImageClassification.from_pretrained(tmp_path), GloriaForImageClassification)
    assert "not supported" not in errors.text


def test_the_segmentation_pipeline_works_offline_in_pixels_of_the_original(
    config, tmp_path, no_network, errors, monkeypatch
):
    head = GloriaForSemanticSegmentation(with_classes(config, 2))
    head.save_pretrained(tmp_path)
    GloriaImageProcessor(crop_size=64).save_pretrained(tmp_path)
    # In place of a trained decoder: whatever is bright in what the model sees.
    monkeypatch.setattr(
        GloriaForSemanticSegmentation,
        "forward",
        lambda self, pixel_values: SemanticSegmenterOutput(
            logits=torch.cat([0 * pixel_values[:, :1], pixel_values[:, :1]], 1)
        ),
    )
    pixels = np.zeros((120, 180), np.uint8)
    pixels[40:70, 100:130] = 255
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    segments = pipeline("image-segmentation", str(tmp_path), device="cpu")(str(tmp_path / "picture.png"))
    masks = {each["label"]: np.asarray(each["mask"]) > 0 for each in segments}
    assert masks["class 1"].shape == (120, 180)
    assert (masks["class 1"] != (pixels > 0)).sum() < 0.2 * 900  # a pixel of the model's is 2.5 of these
    assert np.array_equal(masks["class 0"], ~masks["class 1"])
    assert isinstance(AutoModelForSemanticSegmentation.from_pretrained(tmp_path), GloriaForSemanticSegmentation)
    assert "not supported" not in errors.text


@pytest.mark.parametrize("size", [(100, 100), (40, 90), (90, 40), (333, 200), (5, 70)])
def test_what_is_cropped_comes_back_where_it_was(size):
    """Of a mask that is framed and put back, the pixels that the model has seen are where they were, all others 0."""
    processor = GloriaImageProcessor(crop_size=64)
    height, width = size
    mask = np.zeros(size, bool)
    mask[height // 4 : height // 2 + 1, width // 3 : width // 2 + 1] = True
    framed = torch.tensor(processor.frame_mask(mask)).float()
    logits = torch.stack([0.5 - framed, framed - 0.5])[None]
    output = SemanticSegmenterOutput(logits=logits)
    (back,) = processor.post_process_semantic_segmentation(output, [size])
    assert back.shape == size
    both, either = (back.bool().numpy() & mask).sum(), (back.bool().numpy() | mask).sum()
    assert both / either > 0.7
    left, top, right, bottom = processor.field_of_view(width, height)
    everywhere = SemanticSegmenterOutput(logits=torch.stack([torch.zeros(64, 64), torch.ones(64, 64)])[None])
    (seen,) = processor.post_process_semantic_segmentation(everywhere, [size])
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    inside = (x >= left) & (x <= right) & (y >= top) & (y <= bottom)
    assert np.array_equal(seen.bool().numpy(), inside)
    assert torch.equal(processor.post_process_semantic_segmentation(everywhere)[0], torch.ones(64, 64).long())
