"""The command `gloria` as torchrun starts it; after --crash N, the N-th forward pass of training crashes on rank 1."""

import functools
import os
import sys

from gloria import GloriaModel
from gloria.cli import main

calls = 0


def crash_at(call: int) -> None:
    """Makes a call of the model in training mode raise."""
    original = GloriaModel.forward

    @functools.wraps(original)  # Trainer reads the signature
    def forward(self, *args, **kwargs):
        global calls
        calls += self.training
        if calls == call and self.training:
            raise RuntimeError("rank 1 crashes")
        return original(self, *args, **kwargs)

    GloriaModel.forward = forward


if sys.argv[1] == "--crash":
    if os.environ["RANK"] == "1":
        crash_at(int(sys.argv[2]))
    del sys.argv[1:3]
main()
