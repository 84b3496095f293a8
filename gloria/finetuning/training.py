"""Trains a head, and the encoder under it unless that is frozen, with transformers' Trainer; writes what came of it."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import PrinterCallback, Trainer, TrainingArguments

from gloria.durable import whole_files, write_json
from gloria.finetuning.options import FinetuningOptions
from gloria.heads.encoder import ImageEncoderHead
from gloria.images import GloriaImageProcessor
from gloria.training.run import METRICS


def train_head(model: ImageEncoderHead, images: Dataset, options: FinetuningOptions, seed: int) -> None:
    """Train in place; afterwards the model is in evaluation mode.

    Args:
        model: with a frozen encoder, or one that is trained too.
        images: items with pixel_values and labels.
        options: how to train.
        seed: of the order, and of dropout.
    """
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=options.steps,
            per_device_train_batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            weight_decay=1e-6,
            warmup_steps=0.1,  # a share of all steps
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
            remove_unused_columns=False,
            use_cpu=options.cpu,
            dataloader_pin_memory=torch.cuda.is_available() and not options.cpu,
            disable_tqdm=True,
            seed=seed,
        )
        trainer = Trainer(model=model, args=arguments, train_dataset=images)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    model.eval()


def save_head(
    model: ImageEncoderHead, image_processor: GloriaImageProcessor, metrics: dict[str, Any], out: str | Path
) -> None:
    """Write a folder that pipelines read, with metrics.json."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    with whole_files(out) as staged:
        model.save_pretrained(staged)
        image_processor.save_pretrained(staged)
        write_json(staged / METRICS, metrics, indent=2)


def check_out(out: str | Path | None) -> None:
    """Refuse to write over a model."""
    if out is not None and (Path(out) / "config.json").exists():
        raise ValueError(f"{out} already holds a model; name another folder")


def check_labels(labels: float) -> None:
    """Refuse what is no fraction of the training rows."""
    if not 0 < labels <= 1:
        raise ValueError(f"labels is {labels}; expected a fraction above 0 and up to 1, such as 0.01")
