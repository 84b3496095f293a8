"""A model that crashes, or does something else, in a chosen step of training."""

import functools

from gloria import GloriaModel


def crashing_forward(call, error):
    """`GloriaModel.forward` that raises in the given call of those in training mode."""

    def crash():
        raise error

    return forward_with(call, crash)


def forward_with(call, act):
    """`GloriaModel.forward` that does something first in the given call of those in training mode."""
    calls, original = [], GloriaModel.forward

    @functools.wraps(original)  # Trainer reads the signature
    def forward(self, *args, **kwargs):
        calls.append(self.training)
        if self.training and sum(calls) == call:
            act()
        return original(self, *args, **kwargs)

    return forward
