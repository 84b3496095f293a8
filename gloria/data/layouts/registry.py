"""LAYOUTS: the one list of the public data sets that can be read."""

from collections.abc import Callable
from inspect import signature
from typing import NamedTuple

from gloria.data.layouts.chexpert import five_by, read_chexpert
from gloria.data.layouts.imported import Imported
from gloria.data.layouts.mimic import read_mimic
from gloria.data.layouts.openi import read_openi
from gloria.data.layouts.rsna import read_rsna
from gloria.data.layouts.siim import read_siim
from gloria.data.table import Row


class Layout(NamedTuple):
    """Describes a public data set.

    title: name for people.
    read: makes rows of the folder of a release. Its other parameters, among `reports`, `section`, `all_views` and
        `masks`, are the options of the data set.
    draw: draws a test set like the published one: takes rows, images of each class and a seed, and returns the set and
        the rows of all other patients. None if no test set is published.
    """

    title: str
    read: Callable[..., Imported]
    draw: Callable[[list[Row], int, int], tuple[list[Row], list[Row]]] | None = None

    @property
    def options(self) -> set[str]:
        """Names of the options of `gloria import` that apply to the data set."""
        return (set(signature(self.read).parameters) - {"root"}) | ({"five"} if self.draw else set())


LAYOUTS = {
    "mimic": Layout("MIMIC-CXR(-JPG)", read_mimic),
    "chexpert": Layout("CheXpert (Plus)", read_chexpert, five_by),
    "openi": Layout("Open-i", read_openi),
    "rsna": Layout("RSNA pneumonia", read_rsna),
    "siim": Layout("SIIM-ACR pneumothorax", read_siim),
}
