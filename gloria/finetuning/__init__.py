"""Fine-tuning: a classifier or a segmenter on the image encoder of a run, from a fraction of a table's labels."""

from gloria.finetuning.classification import finetune_classifier, image_vectors
from gloria.finetuning.options import FINETUNING, FinetuningOptions
from gloria.finetuning.segmentation import finetune_segmenter, predicted_masks

__all__ = [
    "FINETUNING",
    "FinetuningOptions",
    "finetune_classifier",
    "finetune_segmenter",
    "image_vectors",
    "predicted_masks",
]
