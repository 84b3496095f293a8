"""GloriaModel under transformers.Trainer: it learns, evaluates, saves, and resumes where it stopped."""

import pytest
import torch
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

from gloria import GloriaModel


class Pairs(Dataset):
    """Images and reports, one row each."""

    def __init__(self, batch, rows):
        self.batch, self.rows = batch, rows

    def __len__(self):
        return self.rows

    def __getitem__(self, index):
        index %= len(self.batch["input_ids"])
        return {**{name: values[index] for name, values in self.batch.items()}, "report_ids": torch.tensor(index)}


@pytest.fixture
def trainer_for(tmp_path, batch, no_network):
    def build(model, steps):
        arguments = TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=steps,
            per_device_train_batch_size=4,
            per_device_eval_batch_size=4,
            eval_strategy="steps",
            eval_steps=1,
            save_steps=1,
            logging_steps=1,
            learning_rate=1e-2,
            remove_unused_columns=False,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            seed=0,
        )
        return Trainer(model=model, args=arguments, train_dataset=Pairs(batch, 8), eval_dataset=Pairs(batch, 4))

    return build


def test_trains_evaluates_saves_and_resumes(trainer_for, tmp_path, model):
    initial = {name: values.clone() for name, values in model.state_dict().items()}
    trainer = trainer_for(model, steps=3)
    trainer.train()
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert len(losses) == 3
    assert all(0 < loss < 100 for loss in losses)

    again = GloriaModel(model.config)
    again.load_state_dict(initial)
    resumed = trainer_for(again, steps=3)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert resumed.state.global_step == 3
    for name, values in model.state_dict().items():
        assert torch.equal(values, again.state_dict()[name]), name

    loaded = GloriaModel.from_pretrained(tmp_path / "checkpoint-3")
    for name, values in model.state_dict().items():
        assert torch.equal(values, loaded.state_dict()[name]), name


def test_learns_four_pairs_by_heart(trainer_for, model, batch):
    trainer = trainer_for(model, steps=40)
    before = trainer.evaluate()["eval_loss"]
    trainer.args.eval_strategy = "no"
    trainer.train()
    after = trainer.evaluate()["eval_loss"]
    assert after < before / 2


def test_the_loss_is_a_mean_that_trainer_divides_when_it_accumulates_gradients(trainer_for, model):
    assert not trainer_for(model, steps=1).model_accepts_loss_kwargs


def test_predict_gives_whole_vectors_only(trainer_for, batch, model):
    """Regions and words of a whole evaluation set would fill the memory."""
    image_embeds, text_embeds = trainer_for(model, steps=1).predict(Pairs(batch, 4)).predictions
    assert image_embeds.shape == text_embeds.shape == (4, 24)
