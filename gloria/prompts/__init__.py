"""Makes prompts, texts that describe a class: its name, its reports, or phrases built from a vocabulary."""

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
