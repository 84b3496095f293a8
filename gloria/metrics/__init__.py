"""Figures of classifiers and segmenters that say what they are of, and what an empty answer would score."""

from gloria.metrics.classification import auroc_table, best_f1_thresholds, threshold_table
from gloria.metrics.segmentation import dice_table

__all__ = ["auroc_table", "best_f1_thresholds", "dice_table", "threshold_table"]
