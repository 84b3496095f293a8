"""GloriaModel in transformers.Trainer: it has a loss of its own, so that nothing needs to be subclassed.

python examples/transformers_trainer.py reports.csv
"""

import sys

from transformers import Trainer, TrainingArguments

from gloria.data import TableDataset, read_table, split_rows
from gloria.small import small_model
from gloria.training import PairCollator

BATCH, MICRO_BATCH, EPOCHS = 64, 16, 10

training, held_out = split_rows(read_table(sys.argv[1]))
model, processor = small_model([row.report for row in training])
model.micro_batch_size = MICRO_BATCH
trainer = Trainer(
    model=model,
    args=TrainingArguments(
        output_dir="trainer-run",
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=min(BATCH, len(training)),
        per_device_eval_batch_size=min(BATCH, len(held_out)),
        dataloader_drop_last=True,  # the loss depends on the number of negatives
        learning_rate=1e-3,
        eval_strategy="epoch",
        logging_strategy="epoch",
        remove_unused_columns=False,
        label_names=[],
        prediction_loss_only=True,
        report_to=[],
    ),
    data_collator=PairCollator(processor),
    train_dataset=TableDataset(training, processor),
    eval_dataset=TableDataset(held_out, processor),
)
trainer.train()
trainer.save_model()
processor.save_pretrained("trainer-run")
trainer.accelerator.end_training()
