"""What stands for a class in words: its name, reports that carry it, or phrases put together from a vocabulary."""

from gloria.data.layouts.chexpert import COMPETITION
from gloria.prompts.prompts import (
    PER_CLASS,
    Prompts,
    generated_prompts,
    named_prompts,
    read_prompts,
    sampled_prompts,
)

__all__ = [
    "COMPETITION",
    "PER_CLASS",
    "Prompts",
    "generated_prompts",
    "named_prompts",
    "read_prompts",
    "sampled_prompts",
]
