"""Trains GLoRIA on rows of a table with transformers.Trainer; the run folder gets model, pictures and metrics."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments, set_seed
from transformers.trainer import TRAINER_STATE_NAME

from gloria.attention import attention_figure, loss_figure, save
from gloria.data.table import Row, read_table, write_table
from gloria.modelling import GloriaModel
from gloria.processing import GloriaProcessor
from gloria.retrieval import precision_table, similarities

CHECKPOINTS = "checkpoints"
HELD_OUT = "held_out.csv"
METRICS = "metrics.json"


@dataclass(frozen=True)
class TrainingOptions:
    """How to train.

    Attributes:
        epochs: passes over the training rows.
        batch_size: pairs in a batch, each a negative of the others. Default 48, released. Fewer rows make one batch.
        learning_rate: peak of a linear warm-up (a tenth of the steps) and decay. Default 5e-5, released.
        weight_decay: of AdamW. Default 1e-6, released.
        group_equal_reports: rows with equal reports (but for case and blanks) are not negatives of one another.
        workers: processes that read images; 0 reads them in this one.
        seed: of the order of rows and of dropout.
        bf16: run the encoders under bfloat16 autocast.
        cpu: do not use an accelerator.
        ks: the K of Precision@K in the metrics.
        progress: show progress bars, on a terminal.
    """

    epochs: int = 10
    batch_size: int = 48
    learning_rate: float = 5e-5
    weight_decay: float = 1e-6
    group_equal_reports: bool = True
    workers: int = 0
    seed: int = 0
    bf16: bool = False
    cpu: bool = False
    ks: tuple[int, ...] = (1, 5, 10)
    progress: bool = True

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 2), ("workers", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; expected {least} at least")
        if not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"learning_rate is {self.learning_rate}; expected a number above 0, such as 5e-5")


DEFAULTS = TrainingOptions()


class PairDataset(Dataset):
    """Rows of a table as pixels, report and the id of the report.

    Args:
        rows: without bad ones.
        processor: makes the pixels here, in the worker; the tokens are made by `PairCollator`, which pads.
        report_ids: ids from `equal_report_ids`, None = no ids.
    """

    def __init__(self, rows: Sequence[Row], processor: GloriaProcessor, report_ids: list[int] | None) -> None:
        self.rows, self.processor, self.report_ids = rows, processor, report_ids

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """pixel_values (3, H, W), report, and report_id where there are ids."""
        row = self.rows[index]
        item = {"pixel_values": self.processor(images=row.image)["pixel_values"][0], "report": row.report}
        return item if self.report_ids is None else {**item, "report_id": self.report_ids[index]}


class PairCollator:
    """Items of `PairDataset` to the arguments of `GloriaModel.forward`."""

    def __init__(self, processor: GloriaProcessor) -> None:
        self.processor = processor

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Stacks pixels, tokenises and pads the reports."""
        batch = dict(self.processor(text=[item["report"] for item in items]))
        batch["pixel_values"] = torch.stack([item["pixel_values"] for item in items])
        if "report_id" in items[0]:
            batch["report_ids"] = torch.tensor([item["report_id"] for item in items])
        return batch


def equal_report_ids(rows: Sequence[Row]) -> list[int]:
    """An id for each row, equal where the reports are equal but for case and blanks."""
    ids: dict[str, int] = {}
    return [ids.setdefault(" ".join(row.report.casefold().split()), len(ids)) for row in rows]


def train(
    model: GloriaModel,
    processor: GloriaProcessor,
    training: Sequence[Row],
    held_out: Sequence[Row],
    out: str | Path,
    options: TrainingOptions = DEFAULTS,
    resume: bool = False,
) -> dict[str, Any]:
    """Trains a model, evaluating it on the held-out rows after every epoch, and measures retrieval at the end.

    Whatever ends the training early (an error, Ctrl-C, a termination that Python sees) leaves a checkpoint of the last
    finished step, and every epoch leaves one too.

    The run folder holds: the model and its processor; held_out.csv, the rows that were not trained on; metrics.json;
    loss.png; attention.png, a held-out row; checkpoints/, the last two.

    Args:
        model: trained in place. With `resume`, its values are replaced by those of the checkpoint.
        processor: of that model.
        training: rows without bad ones, two at least.
        held_out: rows to evaluate on, two at least, of other patients.
        out: run folder; made where it does not exist.
        options: how to train.
        resume: continue from the last checkpoint of the run folder.

    Returns:
        What metrics.json holds: options, numbers of rows, the Trainer's log, and Precision@K on the held-out rows.

    Raises:
        ValueError: too few rows; without `resume`, a run in `out` already; with it, none there, or one of other
        held-out rows.
    """
    out = Path(out)
    for name, rows in (("training", training), ("held_out", held_out)):
        if len(rows) < 2:
            raise ValueError(f"{name} has {len(rows)} rows; expected two at least, to contrast one with another")
    checkpoint = _checkpoint(out, held_out, resume)
    out.mkdir(parents=True, exist_ok=True)
    write_table(out / HELD_OUT, held_out)
    processor.save_pretrained(out)
    trainer = _trainer(model, processor, training, held_out, out, options)
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except BaseException:
        step = trainer.state.global_step
        # Where the step ended an epoch its checkpoint is there already, from before the next epoch drew its order.
        if step and not _complete(out / CHECKPOINTS / f"checkpoint-{step}"):
            # The one place that writes weights, optimiser, schedule, random state and position together; Trainer calls
            # it on its own at the end of an epoch only.
            trainer._save_checkpoint(model, trial=None)
        raise
    model.eval()
    trainer.save_model(str(out))
    return _finish(model, processor, training, held_out, out, options, trainer.state.log_history)


def last_checkpoint(out: str | Path) -> str | None:
    """Path of the last checkpoint of a run folder that was written to its end, None where there is none."""
    complete = [path for path in (Path(out) / CHECKPOINTS).glob("checkpoint-*") if _complete(path)]
    return str(max(complete, key=lambda path: int(path.name.rsplit("-", 1)[1]))) if complete else None


def _complete(checkpoint: Path) -> bool:
    # The state is what Trainer writes last: a run that is killed while it saves leaves a checkpoint without.
    return (checkpoint / TRAINER_STATE_NAME).exists()


def _checkpoint(out: Path, held_out: Sequence[Row], resume: bool) -> str | None:
    checkpoint = last_checkpoint(out)
    if not resume:
        if checkpoint or (out / METRICS).exists():
            raise ValueError(f"{out} holds a run already; resume it (--resume), or name another folder")
        return None
    if checkpoint is None:
        raise ValueError(f"{out} holds no checkpoint to resume from; train without --resume")
    earlier = {row.image for row in read_table(out / HELD_OUT)}
    if earlier != {row.image.absolute() for row in held_out if row.image}:
        raise ValueError(
            f"the held-out rows are not those of the run in {out}, so it would be evaluated on what it was trained on; "
            "resume with the same table, share of held-out patients and seed"
        )
    return checkpoint


def _trainer(
    model: GloriaModel,
    processor: GloriaProcessor,
    training: Sequence[Row],
    held_out: Sequence[Row],
    out: Path,
    options: TrainingOptions,
) -> Trainer:
    steps = max(1, len(training) // options.batch_size) * options.epochs
    arguments = TrainingArguments(
        output_dir=str(out / CHECKPOINTS),
        num_train_epochs=options.epochs,
        per_device_train_batch_size=min(options.batch_size, len(training)),
        per_device_eval_batch_size=min(options.batch_size, len(held_out)),
        dataloader_drop_last=True,  # the loss depends on the number of negatives: every batch has the same
        dataloader_num_workers=options.workers,
        learning_rate=options.learning_rate,
        weight_decay=options.weight_decay,
        warmup_steps=-(-steps // 10),
        logging_strategy="epoch",
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=2,
        prediction_loss_only=True,
        remove_unused_columns=False,
        label_names=[],
        report_to=[],
        bf16=options.bf16,
        use_cpu=options.cpu,
        dataloader_pin_memory=torch.cuda.is_available() and not options.cpu,
        disable_tqdm=not (options.progress and sys.stderr.isatty()),
        seed=options.seed,
    )
    datasets = [
        PairDataset(rows, processor, equal_report_ids(rows) if options.group_equal_reports else None)
        for rows in (training, held_out)
    ]
    set_seed(options.seed)
    return Trainer(
        model=model,
        args=arguments,
        data_collator=PairCollator(processor),
        train_dataset=datasets[0],
        eval_dataset=datasets[1],
    )


def _finish(
    model: GloriaModel,
    processor: GloriaProcessor,
    training: Sequence[Row],
    held_out: Sequence[Row],
    out: Path,
    options: TrainingOptions,
    history: list[dict[str, float]],
) -> dict[str, Any]:
    """Writes what is known at the end of a run."""
    images, reports = [row.image for row in held_out], [row.report for row in held_out]
    found = similarities(model, processor, images, reports, options.batch_size, options.progress)
    metrics = {
        "options": asdict(options),
        "training_rows": len(training),
        "held_out_rows": len(held_out),
        "precision": precision_table(found, held_out, options.ks),
        "log": history,
    }
    (out / METRICS).write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    save(loss_figure(history), out / "loss.png")
    # The held-out pair that the model is surest of among those with something to outline, if any have.
    surest = torch.diagonal(found.of_local).tolist()
    masked = [index for index, row in enumerate(held_out) if row.mask] or range(len(held_out))
    chosen = held_out[max(masked, key=lambda index: surest[index])]
    figure = attention_figure(
        model, processor, chosen.image, chosen.report, chosen.mask, title=f"Held out: {Path(str(chosen.image)).name}"
    )
    save(figure, out / "attention.png")
    return metrics
