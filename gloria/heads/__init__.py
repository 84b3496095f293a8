"""Heads on the image encoder of a GLoRIA: classification and segmentation, in the conventions of transformers."""

from gloria.heads.classification import GloriaForImageClassification
from gloria.heads.segmentation import IGNORED, GloriaForSemanticSegmentation

__all__ = ["IGNORED", "GloriaForImageClassification", "GloriaForSemanticSegmentation"]
