"""What the rows of a table say of classes: a matrix of labels that are present, absent or unknown."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gloria.data.table import Row


class Classes(NamedTuple):
    """The classes of a table.

    names: in alphabetical order.
    exclusive: whether a row has one of them (column label), or any number (column labels).
    """

    names: list[str]
    exclusive: bool

    def truth(self, rows: Sequence[Row]) -> Tensor:
        """Return (rows, classes) float32: 1 = present, 0 = absent, NaN = uncertain, or nothing is said.

        Raises:
            ValueError: a row without a label, or with one that is none of the classes.
        """
        return torch.stack([self._of(row) for row in rows])

    def _of(self, row: Row) -> Tensor:
        if not self.exclusive:
            said = [row.labels.get(name) for name in self.names]
            return torch.tensor([math.nan if value not in (0, 1) else float(value) for value in said])
        if row.label not in self.names:
            raise ValueError(f"{row.where}: the label is {row.label!r}; expected one of {', '.join(self.names)}")
        return torch.nn.functional.one_hot(torch.tensor(self.names.index(row.label)), len(self.names)).float()


def classes_of(rows: Sequence[Row]) -> Classes:
    """Return the classes that rows are labeled with: those of `labels`, or where no row has any those of `label`.

    Raises:
        ValueError: no labels; one class only; of `labels`, a class that no row has, or every labeled row.
    """
    named = sorted({name for row in rows for name in row.labels})
    if named:
        classes = Classes(named, exclusive=False)
        truth = classes.truth(rows)
        for value, what in ((1, "has"), (0, "lacks")):
            never = [name for name, seen in zip(named, (truth == value).any(0).tolist(), strict=True) if not seen]
            if never:
                raise ValueError(
                    f"none of the {len(rows)} rows to train on {what} {', '.join(never)}; take more rows, or leave the "
                    "class out of the column labels"
                )
        return classes
    named = sorted({row.label for row in rows} - {""})
    if not named:
        raise ValueError(
            f"none of the {len(rows)} rows to train on has a label; expected a column labels, such as "
            "'Edema=1; Pneumonia=0', or a column label"
        )
    if len(named) < 2:
        raise ValueError(f"every row to train on has the label {named[0]!r}; expected at least two classes")
    return Classes(named, exclusive=True)
