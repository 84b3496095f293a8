"""What every test shares: the same random numbers and the same hypothesis cases on every run."""

import pytest
import torch
from hypothesis import settings

# Hypothesis must not depend on how busy the machine is, nor a run on chance.
settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=30)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def _same_random_numbers():
    torch.manual_seed(0)
