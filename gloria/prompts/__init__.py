"""What stands for a class in words: its name, reports that carry it, or phrases put together from a vocabulary."""

from gloria.prompts.prompts import (
    COMPETITION,
    MOST_PHRASES,
    PER_CLASS,
    VOCABULARY,
    Prompts,
    generated_prompts,
    named_prompts,
    read_prompts,
    sampled_prompts,
)

__all__ = [
    "COMPETITION",
    "MOST_PHRASES",
    "PER_CLASS",
    "VOCABULARY",
    "Prompts",
    "generated_prompts",
    "named_prompts",
    "read_prompts",
    "sampled_prompts",
]
