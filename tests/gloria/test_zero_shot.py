"""Zero-shot classification: scores by the formulas, one image's answer its own, metrics that count what they say."""

import json
from dataclasses import replace

import pytest
import torch

from gloria.zero_shot import Calibration, ZeroShotClassifier, classification_table, format_classification
from gloria_ops import cosines
from gloria_ops.reference import scores as reference_scores
from gloria_ops.tokens import Ragged

PROMPTS = {
    "Effusion": ["left pleural effusion", "small right effusion", "pleural effusion, unchanged."],
    "Cardiomegaly": "cardiomegaly",
    "Normal": ["No pneumothorax.", "Heart size is normal."],
}
FLAT = [text for texts in PROMPTS.values() for text in ([texts] if isinstance(texts, str) else texts)]


def released_score(words, regions):
    """log max exp(5 u): the released code takes the maximum between the exponential and the logarithm."""
    attention = torch.softmax(4 * torch.softmax(words @ regions.T, dim=0), dim=1)
    similarity = torch.cosine_similarity(attention @ regions, words)
    return (5 * similarity).exp().max().log()


def alone(rows):
    """One item that owns all rows."""
    return Ragged(rows, torch.zeros(1, dtype=torch.int64), torch.tensor([len(rows)]))


def by_formula(model, processor, pictures, form, ensemble):
    """½ (cosine + local score) of each image with each prompt, one pair at a time in float64, and its ensemble."""
    model = model.double()
    with torch.no_grad():
        whole, regions = model.get_image_features(processor(images=pictures)["pixel_values"].double())
        columns = []
        for text in FLAT:
            vector, words, lengths = model.get_text_features(**processor(text=text))
            words = words[0, 1 if form == "released" else 0 : int(lengths)]
            score = model.config.score
            spots = regions.flatten(2).transpose(1, 2)
            if form == "released":
                local = [released_score(words, each) for each in spots]
            else:
                local = [reference_scores(alone(each), alone(words), score)[0, 0] for each in spots]
            columns.append(0.5 * (cosines(whole, vector)[:, 0] + torch.stack(local)))
    model.float()
    pooled = {"mean": lambda some: sum(some) / len(some), "max": lambda some: torch.stack(some).amax(0)}[ensemble]
    return torch.stack([pooled(columns[:3]), pooled(columns[3:4]), pooled(columns[4:])], dim=1)


@pytest.mark.parametrize("form", ["paper", "released"])
@pytest.mark.parametrize("ensemble", ["mean", "max"])
def test_scores_are_those_of_the_formulas(model, processor, pictures, form, ensemble):
    classifier = ZeroShotClassifier(model, processor, PROMPTS, form=form, ensemble=ensemble, batch_size=3)
    expected = by_formula(model, processor, pictures, form, ensemble)
    torch.testing.assert_close(classifier.scores(pictures).double(), expected, atol=2e-6, rtol=2e-6)
    assert classifier.classes == tuple(PROMPTS)


def test_the_maximum_is_divided_where_the_log_sum_exp_is(model, processor, pictures):
    prompts = {"a": FLAT[0], "b": FLAT[3]}
    whole = ZeroShotClassifier(model, processor, prompts).scores(pictures)
    model.local_contrast.score = replace(model.local_contrast.score, pool_divide=True)
    divided = ZeroShotClassifier(model, processor, prompts).scores(pictures)
    with torch.no_grad():
        vectors, _, _ = model.get_text_features(**processor(text=list(prompts.values())))
        images, _ = model.get_image_features(processor(images=pictures)["pixel_values"])
    half = cosines(images, vectors) / 2
    torch.testing.assert_close(whole - half, 5 * (divided - half), atol=1e-5, rtol=1e-5)


def test_a_call_answers_as_the_pipeline_of_transformers(model, processor, pictures):
    classifier = ZeroShotClassifier(model, processor, PROMPTS)
    scores = classifier.scores(pictures)
    answers = classifier(pictures)
    assert [each[0]["label"] for each in answers] == [classifier.classes[best] for best in scores.argmax(1).tolist()]
    for answer, line in zip(answers, scores.tolist(), strict=True):
        assert [each["score"] for each in answer] == sorted(line, reverse=True)
        assert {each["label"]: each["score"] for each in answer} == dict(zip(classifier.classes, line, strict=True))
    alone = classifier(pictures[1])  # no list around it
    assert [each["label"] for each in alone] == [each["label"] for each in answers[1]]
    assert [each["score"] for each in alone] == pytest.approx([each["score"] for each in answers[1]], abs=1e-6)


def test_without_calibration_an_answer_is_about_its_image_alone(model, processor, pictures):
    classifier = ZeroShotClassifier(model, processor, PROMPTS, batch_size=4)
    alone = torch.cat([classifier.scores([picture]) for picture in pictures])
    torch.testing.assert_close(classifier.scores(pictures), alone, atol=1e-6, rtol=1e-6)


def test_training_mode_survives(model, processor, pictures):
    model.train()
    classifier = ZeroShotClassifier(model, processor, PROMPTS)
    scores = classifier.scores(pictures)
    assert model.training
    assert not scores.requires_grad
    torch.testing.assert_close(scores, ZeroShotClassifier(model.eval(), processor, PROMPTS).scores(pictures))


def test_a_tokenizer_without_cls_keeps_its_first_word(model, processor, pictures, monkeypatch):
    with_cls = ZeroShotClassifier(model, processor, PROMPTS)
    monkeypatch.setattr(type(processor.tokenizer), "cls_token_id", None, raising=False)
    without = ZeroShotClassifier(model, processor, PROMPTS)
    # The same pieces, but none is known as [CLS], which then belongs to no word: nothing more is left out.
    torch.testing.assert_close(without.scores(pictures), with_cls.scores(pictures))


def test_calibration_standardizes_each_class_and_comes_back_from_disk(model, processor, pictures, tmp_path):
    plain = ZeroShotClassifier(model, processor, PROMPTS)
    scores = plain.scores(pictures).double()
    made = plain.calibrate(pictures[:3], source="held-out")
    known = scores[:3]
    expected = (scores - known.mean(0)) / known.std(0, correction=0)
    torch.testing.assert_close(plain.scores(pictures).double(), expected, atol=1e-3, rtol=1e-3)
    made.save(tmp_path / "calibration.json")
    loaded = Calibration.load(tmp_path / "calibration.json")
    assert loaded == made
    assert (loaded.source, loaded.images) == ("held-out", 3)
    again = ZeroShotClassifier(model, processor, PROMPTS, calibration=loaded)
    assert torch.equal(again.scores(pictures), plain.scores(pictures))
    torch.testing.assert_close(again.scores(pictures[:1]), again.scores(pictures)[:1], atol=1e-3, rtol=1e-3)


def test_a_calibration_of_another_classifier_is_refused(model, processor, pictures):
    made = ZeroShotClassifier(model, processor, PROMPTS).calibrate(pictures, source="a set")
    with pytest.raises(ValueError, match="the calibration by a set was made with another form, ensemble; calibrate"):
        ZeroShotClassifier(model, processor, PROMPTS, form="paper", ensemble="mean", calibration=made)
    with pytest.raises(ValueError, match="was made with another prompts"):
        ZeroShotClassifier(model, processor, PROMPTS | {"Normal": "clear"}, calibration=made)
    with pytest.raises(ValueError, match="was made with another class order"):
        ZeroShotClassifier(model, processor, dict(reversed(PROMPTS.items())), calibration=made)
    with torch.no_grad():
        model.region_projection.weight[0, 0] += 1e-3
    with pytest.raises(ValueError, match="was made with another model"):
        ZeroShotClassifier(model, processor, PROMPTS, calibration=made)


def test_nothing_is_standardized_by_one_image(model, processor, pictures):
    classifier = ZeroShotClassifier(model, processor, PROMPTS)
    with pytest.raises(ValueError, match="'Effusion' is the same for all 1 images of the calibration set one"):
        classifier.calibrate(pictures[:1], source="one")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda saved: "{", "is not a calibration"),
        (lambda saved: json.dumps(saved | {"more": 1}), "is not a calibration"),
        (lambda saved: json.dumps(saved | {"mean": [0.0]}), r"has 3 classes, means \(0.0,\)"),
        (lambda saved: json.dumps(saved | {"std": [1.0, 0.0, 1.0]}), "deviations above 0"),
    ],
)
def test_a_damaged_calibration_is_refused(model, processor, pictures, tmp_path, damage, message):
    path = tmp_path / "calibration.json"
    ZeroShotClassifier(model, processor, PROMPTS).calibrate(pictures, source="a set").save(path)
    path.write_text(damage(json.loads(path.read_text())))
    with pytest.raises(ValueError, match=message):
        Calibration.load(path)


@pytest.mark.parametrize(
    ("prompts", "options", "error", "message"),
    [
        ({"A": "a"}, {}, ValueError, r"prompts has the classes \['A'\]; expected at least two"),
        ({"A": "a", "B": []}, {}, ValueError, "prompts of class 'B' are none"),
        ({"A": "a", "B": [3]}, {}, TypeError, "a prompt of class 'B' is 3; expected a text"),
        ({"A": "a", "B": "  "}, {}, ValueError, "the prompt '  ' has no words"),
        (PROMPTS, {"form": "best"}, ValueError, "form is 'best'; expected one of 'paper', 'released'"),
        (PROMPTS, {"ensemble": "sum"}, ValueError, "ensemble is 'sum'; expected one of 'mean', 'max'"),
        (PROMPTS, {"batch_size": 0}, ValueError, "batch_size is 0; expected at least 1"),
    ],
)
def test_mistakes_are_named(model, processor, prompts, options, error, message):
    with pytest.raises(error, match=message):
        ZeroShotClassifier(model, processor, prompts, **options)


def test_images_that_cannot_be_scored(model, processor, pictures):
    classifier = ZeroShotClassifier(model, processor, PROMPTS)
    with pytest.raises(ValueError, match="images is empty"):
        classifier([])
    with pytest.raises(ValueError, match=r"gone\.png cannot be read"):
        classifier("gone.png")
    with torch.no_grad():
        model.image_projection.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"images\[0\].*scores that are NaN or infinite"):
        classifier.scores(pictures)


def test_from_a_run_folder(model, processor, pictures, tmp_path, no_network):
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = ZeroShotClassifier.from_pretrained(tmp_path, PROMPTS, form="paper")
    here = ZeroShotClassifier(model, processor, PROMPTS, form="paper")
    assert torch.equal(loaded.scores(pictures), here.scores(pictures))
    assert loaded.description == here.description


def test_metrics_counted_by_hand():
    #            a: TP 2 FN 1 FP 1 TN 1     b: TP 1 FN 0 FP 1 TN 3     c: TP 0 FN 1 FP 0 TN 4
    predicted, labels = ["a", "a", "b", "b", "a"], ["a", "a", "a", "b", "c"]
    table = classification_table(predicted, labels, ["a", "b", "c"])
    counted = {
        "a": {"accuracy": 3 / 5, "sensitivity": 2 / 3, "specificity": 1 / 2, "PPV": 2 / 3, "NPV": 1 / 2, "F1": 4 / 6},
        "b": {"accuracy": 4 / 5, "sensitivity": 1.0, "specificity": 3 / 4, "PPV": 1 / 2, "NPV": 1.0, "F1": 2 / 3},
        "c": {"accuracy": 4 / 5, "sensitivity": 0.0, "specificity": 1.0, "PPV": 0.0, "NPV": 4 / 5, "F1": 0.0},
    }
    for name, images in (("a", 3), ("b", 1), ("c", 1)):
        assert table[name] == pytest.approx(counted[name] | {"images": images})
    means = {metric: sum(counted[name][metric] for name in "abc") / 3 for metric in counted["a"]}
    assert table["macro"] == pytest.approx(means | {"images": 5})
    assert table["all"] == pytest.approx({"accuracy": 3 / 5, "images": 5})
    text = format_classification(table)
    assert len(text.splitlines()) == 6
    assert text.endswith("accuracy over all classes: 60.0")
    assert text.splitlines()[1].split() == ["a", "3", "60.0", "66.7", "50.0", "66.7", "50.0", "66.7"]


@pytest.mark.parametrize(
    ("predicted", "labels", "message"),
    [
        (["a"], ["a", "b"], "there are 1 predictions and 2 labels"),
        ([], [], "there are 0 predictions and 0 labels"),
        (["a"], ["x"], "'x' is none of the classes 'a', 'b'"),
    ],
)
def test_metrics_of_nothing(predicted, labels, message):
    with pytest.raises(ValueError, match=message):
        classification_table(predicted, labels, ["a", "b"])
