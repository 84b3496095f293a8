"""A training loop of one's own in plain torch: gloria_ops for the loss, in micro-batches, for batches beyond memory.

python examples/plain_torch.py reports.csv
"""

import sys

import torch
from torch.utils.data import DataLoader

from gloria.data import TableDataset, read_table
from gloria.small import small_model
from gloria.training import PairCollator
from gloria_ops import CachedLocalGlobalLoss

BATCH, MICRO_BATCH, EPOCHS = 64, 16, 10

rows = read_table(sys.argv[1])
# Any two encoders do, as long as they return (vectors, regions) and (vectors, words, numbers of words).
model, processor = small_model([row.report for row in rows])
loss = CachedLocalGlobalLoss(model.get_image_features, model.get_text_features, MICRO_BATCH)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
loader = DataLoader(
    TableDataset(rows, processor, group_equal_texts=False),
    batch_size=min(BATCH, len(rows)),
    shuffle=True,
    drop_last=True,
    collate_fn=PairCollator(processor),
)

model.train()
for epoch in range(EPOCHS):
    for texts in loader:
        images = texts.pop("pixel_values")
        total = loss(images, texts)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    print(f"epoch {epoch + 1}: loss {total.item():.3f}")
