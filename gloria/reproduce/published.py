"""TABLES: the tables of the talk, with the systems that each compares and the published figures at hand."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import yaml

from gloria.reproduce.budget import Budget
from gloria.reproduce.cells import kind_of


@dataclass(frozen=True)
class Table:
    """One table of the talk.

    Attributes:
        task: a key of data, whose kind is a name of `gloria.reproduce.tasks.TASKS`.
        title: heading.
        systems: in the order of the talk.
        metrics: names of the figures that it shows.
        about: what they are.
        published: for each data set "data", "source" (text and url) and "figures", by system and fraction of the
            labels.
        not_at_hand: which published figures are missing here.
        beside: task and systems of another task whose figures it shows too.
    """

    task: str
    title: str
    systems: list[str]
    metrics: list[str]
    about: str
    published: list[dict[str, Any]]
    not_at_hand: str
    beside: dict[str, Any] = field(default_factory=dict)

    def fractions(self, budget: Budget, mask_fractions: Sequence[float]) -> Sequence[float | None]:
        """Return the fractions of the labels that it is filled for, of masks the suite's; None without labels."""
        if self.task == "classification":
            return budget.fractions
        return mask_fractions[: budget.mask_fractions] if kind_of(self.task) == "segmentation" else (None,)


def _read() -> list[Table]:
    text = files(__package__).joinpath("published.yaml").read_text(encoding="utf-8")
    return [Table(**entry) for entry in yaml.safe_load(text)]


TABLES = _read()
