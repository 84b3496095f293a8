"""Trains a tiny GloriaModel by transformers.Trainer with no word about ranks: alone, or as one of several."""

import json
from pathlib import Path

import torch
from torch.utils.data import Dataset
from transformers import BertConfig, Trainer, TrainingArguments, ViTConfig

from gloria import GloriaConfig, GloriaModel

ROWS = 4
LAYERS = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


class Pairs(Dataset):
    """Random pixels and tokens; rows 0 and 2 carry equal reports."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        position = torch.arange(7).expand(ROWS, 7)
        pieces = torch.tensor([7, 3, 7, 5])[:, None]
        self.columns = {
            "pixel_values": torch.randn(ROWS, 3, 32, 32, generator=generator),
            "input_ids": torch.randint(60, (ROWS, 7), generator=generator),
            "attention_mask": (position < pieces).long(),
            "word_ids": torch.where(position < pieces - 1, position, -1),
            "report_ids": torch.tensor([4, 9, 4, 2]),
        }
        self.columns["input_ids"][2] = self.columns["input_ids"][0]

    def __len__(self):
        return ROWS

    def __getitem__(self, row):
        return {name: values[row] for name, values in self.columns.items()}


def train(out: Path | str, rows_a_rank: int | str) -> None:
    """Writes the weights and the log of the training to `out`."""
    out, rows_a_rank = Path(out), int(rows_a_rank)
    torch.manual_seed(0)
    config = GloriaConfig(
        image_config=ViTConfig(image_size=32, patch_size=8, **LAYERS, **NO_DROPOUT),
        text_config=BertConfig(vocab_size=60, **LAYERS, **NO_DROPOUT),
        projection_dim=24,
        last_layers=2,
    )
    arguments = TrainingArguments(
        output_dir=str(out),
        max_steps=3,
        per_device_train_batch_size=rows_a_rank,
        per_device_eval_batch_size=rows_a_rank,
        optim="sgd",
        learning_rate=0.1,
        logging_steps=1,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="no",
        prediction_loss_only=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        report_to=[],
        use_cpu=True,
    )
    trainer = Trainer(model=GloriaModel(config), args=arguments, train_dataset=Pairs(), eval_dataset=Pairs())
    trainer.train()
    if trainer.is_world_process_zero():
        trainer.save_model(str(out))
        (out / "log.json").write_text(json.dumps(trainer.state.log_history))
    trainer.accelerator.end_training()  # ends the process group, whose threads may else crash the interpreter's exit
