"""From step to step: an interrupted run resumes to the same bits, wherever it broke off; broken numbers stop it."""

from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator

from gloria import GloriaModel
from gloria.small import small_model
from gloria.training import PairCollator, TrainingOptions, last_checkpoint, train
from gloria.training.steps import NonFiniteError

# What a resumed run must bring back beside the weights: two kinds of state of the optimizer, of a schedule that looks
# at evaluations, of dropout, and of running statistics.
OPTIONS = TrainingOptions(
    epochs=2,
    batch_size=6,
    micro_batch_size=4,
    learning_rate=1e-3,
    optimizer="adam",
    beta1=0.5,
    schedule="plateau",
    early_stopping=10,
    retrieval_rows=0,
    cpu=True,
    progress=False,
)


@pytest.fixture(scope="module")
def straight(parts, tmp_path_factory):
    """The weights of a run that nothing interrupts."""
    model, processor = small_model([row.report for row in parts[0]])
    train(model, processor, *parts, tmp_path_factory.mktemp("straight"), OPTIONS)
    return model.state_dict()


def interrupt(monkeypatch, owner, name, call, before):
    """The given call of a method is broken off by Ctrl-C, before or after what it does."""
    calls, original = [], getattr(owner, name)

    def interrupted(*args, **kwargs):
        calls.append(name)
        if len(calls) == call and before:
            raise KeyboardInterrupt
        result = original(*args, **kwargs)
        if len(calls) == call:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(owner, name, interrupted)


@pytest.mark.parametrize(
    ("owner", "name", "call", "before", "left"),
    [
        (Accelerator, "backward", 2, True, 1),  # dropout was drawn and running statistics updated
        (Accelerator, "backward", 4, False, 3),
        (torch.optim.Adam, "step", 4, False, 2),  # the weights are those of no step: the last epoch's checkpoint counts
    ],
)
def test_a_run_interrupted_within_a_step_resumes_to_the_same_bits(
    parts, new_model, straight, tmp_path, monkeypatch, owner, name, call, before, left
):
    with monkeypatch.context() as patch:
        interrupt(patch, owner, name, call, before)
        with pytest.raises(KeyboardInterrupt):
            train(*new_model(), *parts, tmp_path, OPTIONS)
    assert last_checkpoint(tmp_path).endswith(f"checkpoint-{left}")
    model, processor = new_model(seed=1)
    train(model, processor, *parts, tmp_path, OPTIONS, resume=True)
    for name, values in model.state_dict().items():
        assert torch.equal(values, straight[name]), name


def poisoned(monkeypatch, call):
    """The pixels of the given batch are no numbers; returns its lines, as they come."""
    lines, original = [], PairCollator.__call__
    calls = []

    def collate(self, items):
        batch = original(self, items)
        calls.append(self)
        if len(calls) == call:
            batch["pixel_values"][0, 0, 0, 0] = torch.nan
            lines.extend(item["line"] for item in items)
        return batch

    monkeypatch.setattr(PairCollator, "__call__", collate)
    return lines


def test_a_loss_that_is_no_number_names_its_rows_and_leaves_the_state_before(parts, new_model, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        lines = poisoned(patch, 2)
        with pytest.raises(NonFiniteError) as stopped:
            train(*new_model(), *parts, tmp_path, OPTIONS)
    assert len(lines) == 6
    named = ", ".join(map(str, sorted(lines)))
    assert f"the loss is nan in step 2; its batch holds the rows on lines {named} of the table" in str(stopped.value)
    assert str(stopped.value).endswith(f"the state before that step is in {tmp_path / 'checkpoints' / 'checkpoint-1'}")
    left = GloriaModel.from_pretrained(last_checkpoint(tmp_path)).state_dict()
    assert all(values.isfinite().all() for values in left.values())


def test_what_is_left_resumes_once_the_row_is_mended(parts, new_model, straight, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        poisoned(patch, 2)
        with pytest.raises(NonFiniteError):
            train(*new_model(), *parts, tmp_path, OPTIONS)
    model, processor = new_model(seed=1)
    train(model, processor, *parts, tmp_path, OPTIONS, resume=True)
    for name, values in model.state_dict().items():
        assert torch.equal(values, straight[name]), name


def test_a_first_step_that_breaks_leaves_nothing(parts, new_model, tmp_path, monkeypatch):
    poisoned(monkeypatch, 1)
    with pytest.raises(NonFiniteError, match="no step was finished before it"):
        train(*new_model(), *parts, tmp_path, OPTIONS)
    assert last_checkpoint(tmp_path) is None


@pytest.mark.parametrize("max_grad_norm", [1.0, 0.0])
def test_a_gradient_that_is_infinite_does_not_reach_the_weights(parts, new_model, tmp_path, max_grad_norm):
    model, processor = new_model()
    gradients = []

    def break_third(gradient):
        gradients.append(gradient)
        return gradient * torch.inf if len(gradients) == 3 else gradient

    model.image_projection.bias.register_hook(break_third)
    with pytest.raises(NonFiniteError, match=r"the gradient norm is (inf|nan) in step 3; its batch holds the rows on"):
        train(model, processor, *parts, tmp_path, replace(OPTIONS, max_grad_norm=max_grad_norm))
    assert last_checkpoint(tmp_path).endswith("checkpoint-2")
    assert all(values.isfinite().all() for values in model.state_dict().values())
