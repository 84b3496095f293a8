"""GloriaModel in Lightning, with clipping as released: the model's forward gives the loss, Lightning does the rest.

In the clone: pip install '.[examples]'; python examples/lightning_module.py reports.csv
"""

import sys

import lightning
import torch
from torch.utils.data import DataLoader

from gloria.data import TableDataset, read_table
from gloria.small import small_model
from gloria.training import PairCollator

BATCH, MICRO_BATCH, EPOCHS = 64, 16, 10


class Gloria(lightning.LightningModule):
    """A GLoRIA that Lightning trains."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.model.micro_batch_size = MICRO_BATCH

    def training_step(self, batch, _):
        """The loss of a batch of `PairCollator`."""
        output = self.model(**batch)
        self.log("local_loss", output.local_loss, prog_bar=True)
        return output.loss

    def on_train_batch_end(self, outputs, _batch, _index):
        """Prints the loss, where a logger would be."""
        print(f"step {self.global_step}: loss {outputs['loss'].item():.3f}")

    def configure_optimizers(self):
        """As in the released code."""
        return torch.optim.Adam(self.parameters(), lr=1e-3, betas=(0.5, 0.999), weight_decay=1e-6)


rows = read_table(sys.argv[1])
model, processor = small_model([row.report for row in rows])
loader = DataLoader(
    TableDataset(rows, processor, group_equal_texts=False),
    batch_size=min(BATCH, len(rows)),
    shuffle=True,
    drop_last=True,
    collate_fn=PairCollator(processor),
)
trainer = lightning.Trainer(
    max_epochs=EPOCHS, gradient_clip_val=0.25, logger=False, enable_checkpointing=False, enable_progress_bar=False
)
trainer.fit(Gloria(model), loader)
model.save_pretrained("lightning-run")
processor.save_pretrained("lightning-run")
