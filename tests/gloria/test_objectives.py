"""Objectives: each is its formula in float64, hinges begin with all negatives, and a name that is none is refused."""

import re

import pytest
import torch
from crashing import crashing_forward
from typer.testing import CliRunner

import gloria.modeling
from gloria import GloriaConfig, GloriaModel
from gloria.cli import app
from gloria.objectives import OBJECTIVES, is_collapsed, objective_fields
from gloria.projections import SelectivePooling
from gloria.small import small_model
from gloria.training import TrainingOptions, last_checkpoint, train
from gloria_ops import local_scores

HINGES = [name for name, fields in OBJECTIVES.items() if fields.get("global_loss") == "hinge"]


@pytest.fixture
def model_of(image_configs, text_config):
    def build(name, **fields):
        torch.manual_seed(0)
        fields = {**objective_fields(name), **fields}
        return GloriaModel(GloriaConfig(image_configs["resnet"], text_config, projection_dim=24, **fields)).double()

    return build


@pytest.fixture
def double_batch(batch):
    return {**batch, "pixel_values": batch["pixel_values"].double()}


def cosine(image, text):
    return float(image @ text / image.norm() / text.norm())


def table_of(images, texts):
    return [[cosine(image, text) for text in texts] for image in images]


def cross_entropy(scores, scale):
    """Of each row over its columns, the diagonal being right: a mean over the rows."""
    logits = scale * torch.tensor(scores, dtype=torch.float64)
    return sum(float(row.exp().sum().log() - row[i]) for i, row in enumerate(logits)) / len(logits)


def turned(scores):
    return [list(column) for column in zip(*scores, strict=True)]


def violations(scores, i, ids=None):
    """Of the wrong columns of a row: by how much each fails to lose by the margin."""
    wrong = [j for j in range(len(scores)) if j != i and (ids is None or ids[j] != ids[i])]
    return [max(0.0, 0.2 + scores[i][j] - scores[i][i]) for j in wrong]


def hinge(scores, count, ids=None):
    return sum(
        count(violations(each, i, ids) or [0.0]) for each in (scores, turned(scores)) for i in range(len(scores))
    )


FORMULAS = {
    "gloria": lambda s, z: sum(cross_entropy(each, 10) for each in (s, turned(s), z, turned(z))),
    "global": lambda s, z: sum(cross_entropy(each, 10) for each in (s, turned(s))),
    "local": lambda s, z: sum(cross_entropy(each, 10) for each in (z, turned(z))),
    "convirt": lambda s, z: 0.75 * cross_entropy(s, 10) + 0.25 * cross_entropy(turned(s), 10),
    "vse++": lambda s, z: hinge(s, max),
    "dsve": lambda s, z: hinge(s, max),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_loss_is_the_formula_in_float64(model_of, double_batch, name):
    model = model_of(name).eval()
    with torch.no_grad():
        output = model(**double_batch)
    of_global = table_of(output.image_embeds, output.text_embeds)
    of_local = local_scores(output.region_embeds, output.word_embeds, word_lengths=output.word_lengths)
    assert output.loss.item() == pytest.approx(FORMULAS[name](of_global, of_local.tolist()), rel=1e-10)


@pytest.mark.parametrize("name", HINGES)
def test_all_negatives_are_counted_if_not_the_hardest_alone(model_of, double_batch, name):
    model = model_of(name).eval()
    model.hardest_negatives = False
    with torch.no_grad():
        output = model(**double_batch)
    assert output.loss.item() == pytest.approx(hinge(table_of(output.image_embeds, output.text_embeds), sum), rel=1e-10)


def test_only_the_hardest_negatives_and_their_pairs_have_gradients(model_of):
    model = model_of("vse++")
    images, texts = (torch.randn(5, 24, dtype=torch.float64, requires_grad=True) for _ in range(2))
    model._global_loss(images, texts, None).backward()
    scores = torch.nn.functional.normalize(images, dim=1) @ torch.nn.functional.normalize(texts, dim=1).T
    expected = torch.zeros(5, 5, dtype=torch.float64)
    for table, gradient in ((scores.tolist(), expected), (scores.T.tolist(), expected.T)):
        for i in range(5):
            worst = max((j for j in range(5) if j != i), key=lambda j: table[i][j])
            if table[i][worst] + 0.2 > table[i][i]:
                gradient[i, worst] += 1
                gradient[i, i] -= 1
    assert expected.any()
    for given, right in zip((images, texts), torch.autograd.grad(scores, (images, texts), expected), strict=True):
        torch.testing.assert_close(given.grad, right, rtol=1e-10, atol=1e-12)


def test_equal_reports_are_no_negatives_of_a_hinge(model_of):
    model = model_of("vse++")
    images, texts = (torch.randn(5, 24, dtype=torch.float64, requires_grad=True) for _ in range(2))
    ids = [7, 3, 7, 3, 1]
    loss = model._global_loss(images, texts, torch.tensor(ids))
    assert loss.item() == pytest.approx(hinge(table_of(images.detach(), texts.detach()), max, ids), rel=1e-10)
    loss.backward()
    assert images.grad.isfinite().all()
    alone = model._global_loss(images[:2], texts[:2], torch.tensor([7, 7]))
    assert alone.item() == 0


def test_selective_pooling_is_the_mean_of_the_largest_plus_that_of_the_smallest():
    pooling = SelectivePooling(3, 4, 15).double().eval()
    features = torch.randn(2, 3, 5, 7, dtype=torch.float64)
    convolved = torch.einsum("oc,bchw->bohw", pooling.convolution.weight[:, :, 0, 0], features)
    values = (convolved + pooling.convolution.bias[:, None, None]).flatten(2).sort(2).values
    expected = values[..., -15:].mean(2) + values[..., :15].mean(2)
    torch.testing.assert_close(pooling(features), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(pooling(features[..., :2, :2]).shape, (2, 4))
    dropped = pooling.train()(features)
    assert 0 < (dropped == 0).sum() < dropped.numel()


def test_two_layers_have_a_relu_between(model_of, double_batch):
    model = model_of("convirt").eval()
    with torch.no_grad():
        pooled = model.image_encoder(double_batch["pixel_values"]).feature_maps[-1].mean((2, 3))
        first, _, last = model.image_projection
        expected = (pooled @ first.weight.T + first.bias).clamp(min=0) @ last.weight.T + last.bias
        given, _ = model.get_image_features(double_batch["pixel_values"])
    torch.testing.assert_close(given, expected)
    assert [type(each).__name__ for each in model.text_projection] == ["Linear", "ReLU", "Linear"]


def test_a_hinge_on_several_processes_is_refused_by_name(model_of, double_batch, monkeypatch):
    monkeypatch.setattr(gloria.modeling, "rank_count", lambda group: 2)
    with pytest.raises(NotImplementedError, match="global_loss is 'hinge' on 2 processes"):
        model_of("vse++")(**double_batch)
    assert model_of("vse++")(**double_batch, return_loss=False).loss is None


def test_a_resumed_run_takes_the_hardest_negatives_from_the_step_from_which_it_would_have(parts, tmp_path):
    """Four steps, of which the first three count all negatives; the run crashes after the second."""
    options = TrainingOptions(
        epochs=2, batch_size=6, all_negatives=0.75, retrieval_rows=0, cpu=True, progress=False, learning_rate=1e-3
    )

    def new():
        return small_model([row.report for row in parts[0]], pixels=32, **objective_fields("vse++"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GloriaModel, "forward", crashing_forward(3, KeyError()))
        with pytest.raises(KeyError):
            train(*new(), *parts, tmp_path, options)
    assert last_checkpoint(tmp_path).endswith("checkpoint-2")
    seen, original = [], GloriaModel._global_loss
    with pytest.MonkeyPatch.context() as patch:

        def noted(self, *args):
            seen.append((self.training, self.hardest_negatives))
            return original(self, *args)

        patch.setattr(GloriaModel, "_global_loss", noted)
        metrics = train(*new(), *parts, tmp_path, options, resume=True)
    assert [hardest for training, hardest in seen if training] == [False, True]
    assert all(hardest for training, hardest in seen if not training)
    assert len([entry for entry in metrics["log"] if "eval_loss" in entry]) == 2
    assert metrics["collapsed"] is True  # or never anything else: four steps do not tell reports apart


def test_scores_within_one_margin_are_those_of_a_collapsed_hinge(model_of):
    hinge_config, learned = model_of("vse++").config, torch.eye(3)
    assert not is_collapsed(learned, hinge_config)
    assert is_collapsed(0.19 * learned + 0.5, hinge_config)
    assert not is_collapsed(0.19 * learned, model_of("global").config)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"global_loss": "triplet"}, "global_loss is 'triplet'; expected 'contrastive' or 'hinge'"),
        ({"projection_layers": 3}, "projection_layers is 3; expected 1 or 2"),
        ({"image_pooling": "max"}, "image_pooling is 'max'; expected 'mean' or 'selective'"),
        ({"pooled_regions": 0}, "pooled_regions is 0; expected at least 1, such as 15"),
        ({"margin": 0.0}, "margin is 0.0; expected a finite number above 0, such as 0.2"),
        ({"global_image_weight": 1.5}, "global_image_weight is 1.5; expected a share, 0 to 1"),
    ],
)
def test_impossible_settings_are_named(fields, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        GloriaConfig(**fields)


def test_an_unknown_objective_is_a_line_that_names_the_known_ones(tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("image,report\n")
    result = CliRunner().invoke(
        app, ["train", str(table), "--out", str(tmp_path / "run"), "--preset", "small", "--objective", "clip"]
    )
    assert result.exit_code == 2
    known = ", ".join(map(repr, OBJECTIVES))
    assert result.output == f"gloria: objective is 'clip'; expected one of {known}\n"
