"""Classifies images without labels: by the class whose prompts an image is most similar to."""

from gloria.zero_shot.calibration import Calibration
from gloria.zero_shot.classifier import Ensemble, Form, ZeroShotClassifier
from gloria.zero_shot.metrics import classification_table, format_classification

__all__ = [
    "Calibration",
    "Ensemble",
    "Form",
    "ZeroShotClassifier",
    "classification_table",
    "format_classification",
]
