"""What a backend is: a module (or an object) with these names, which mypy checks for each one in the registry."""

from typing import Protocol

import torch
from torch import Tensor

from gloria_ops.learnable import FIXED, Learnable
from gloria_ops.score import LocalScore
from gloria_ops.tokens import Ragged


class Backend(Protocol):
    """Computes the scores of every attended item with every attending one, and their gradients.

    Attention runs over the rows of the attended item, one distribution for each row of the attending item: in direction
    t2i images are attended by the words of texts. Who is which was decided by the caller (`gloria_ops.pairs`), so a
    backend never reads `score.direction` where it computes.
    """

    @property
    def name(self) -> str:
        """What users call it by."""

    @property
    def caution(self) -> str | None:
        """What a warning says once where it is chosen automatically."""

    @property
    def differentiable(self) -> bool:
        """Whether autograd passes through `forward` itself; where not, `gloria_ops.ops` registers `backward` for it."""

    @property
    def attended_of_any_length(self) -> bool:
        """Whether attended items may be packed with unequal lengths; where not, they must be padded to one."""

    @property
    def keeps_best(self) -> bool:
        """Whether `best` may be given: forward writes it, backward reads it."""

    def describe(self) -> str:
        """Return a line for the doctor: what it runs on; raise ValueError if a setting makes every call fail."""

    def unavailable(self) -> str | None:
        """Return why it cannot run on this machine, and the fix; None if it can."""

    def unsupported(
        self, score: LocalScore, dtype: torch.dtype, device: torch.device, learnable: Learnable = FIXED
    ) -> str | None:
        """Return what it lacks for this score, dtype, device and what of `learnable` is given; None if it has all."""

    def forward(
        self,
        attended: Ragged,
        attending: Ragged,
        score: LocalScore,
        search_words: int = 0,
        learnable: Learnable = FIXED,
        best: Tensor | None = None,
    ) -> Tensor:
        """Return the scores (N, T) of N attended items with T attending ones, float32 (float64 for float64).

        Args:
            attended, attending: of one width, dtype and device.
            score: every knob but `direction` and `logit_scale`.
            search_words: above 0, the attended items are part of a corpus that is read in chunks, and so many rows
                attend in all. The backend may take another way to the same values by this number, so that the way
                does not depend on where the corpus is cut; 0 is a batch.
            learnable: what of the score comes as tensors. A scale among them stands for the score's own, which is not
                to be read.
            best: int32 (N, L) for a hard maximum and L attending rows, to be filled: which row of each attended item is
                the best of each attending row, negative where several tie; in an order that only `backward` knows.
        """

    def backward(
        self,
        grad_scores: Tensor,
        attended: Ragged,
        attending: Ragged,
        score: LocalScore,
        learnable: Learnable = FIXED,
        best: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Return gradients from that of the scores (N, T), of any strides, and where it was kept from `best`.

        Of both sides' rows, and then of `learnable.given`, in its order. They have the shape and dtype of what they
        belong to; rows that belong to no item get zeros.
        """
