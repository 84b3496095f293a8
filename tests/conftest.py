"""What every test shares: the same random numbers and the same hypothesis cases on every run."""

import os

import pytest
import torch
from hypothesis import settings

# Hypothesis must not depend on how busy the machine is, nor a run on chance; `make fuzz` searches on, anew each time.
settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=30)
settings.register_profile("long", deadline=None, max_examples=2500, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


@pytest.fixture(autouse=True)
def _same_random_numbers():
    torch.manual_seed(0)
