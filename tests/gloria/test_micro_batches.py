"""GloriaModel in micro-batches: the same loss and gradients, whatever else is switched on."""

import pytest
import torch

from gloria import GloriaConfig, GloriaModel


@pytest.fixture
def double(image_configs, text_config):
    """A model without batch statistics at work and without dropout, in float64."""
    torch.manual_seed(0)
    text_config.attention_probs_dropout_prob = 0.0  # the only dropout that is no module
    config = GloriaConfig(image_config=image_configs["resnet"], text_config=text_config, projection_dim=24)
    return GloriaModel(config).double().eval()


def step(model, batch, size):
    model.micro_batch_size = size
    loss = model(**batch).loss
    loss.backward()
    grads = {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}
    model.zero_grad()
    return loss, grads


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable:FutureWarning")  # its new name needs a newer release
@pytest.mark.parametrize("equal_reports", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_loss_and_gradients_are_those_of_the_whole_batch(double, batch, equal_reports, checkpointing):
    batch["pixel_values"] = batch["pixel_values"].double()
    if equal_reports:
        batch["report_ids"] = torch.tensor([0, 1, 0, 2])
    loss, grads = step(double, batch, None)
    if checkpointing:  # of each layer, within a replay of all of them
        double.gradient_checkpointing_enable()
        double.train()
        for module in double.modules():
            if isinstance(module, (torch.nn.Dropout, torch.nn.BatchNorm2d)):
                module.eval()
    cached, of_cached = step(double, batch, 3)
    torch.testing.assert_close(cached, loss, rtol=1e-12, atol=0)
    assert of_cached.keys() == grads.keys()
    for name, grad in grads.items():
        torch.testing.assert_close(of_cached[name], grad, rtol=1e-9, atol=1e-12, msg=name)


def test_it_is_a_setting_of_the_machine_and_not_saved(model, tmp_path):
    model.micro_batch_size = 2
    model.save_pretrained(tmp_path)
    assert GloriaModel.from_pretrained(tmp_path).micro_batch_size is None
