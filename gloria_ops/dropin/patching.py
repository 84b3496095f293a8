"""Replaces functions of an installed package wherever its modules have them, and puts them back."""

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

Replacements = dict[str, dict[str, Callable[..., Any]]]


class Patch:
    """Functions of a package and what replaces them.

    Args:
        distribution: its name for pip.
        known: versions that this was tested with.
        replacements: by the module that defines them, ours by their names.
    """

    def __init__(self, distribution: str, known: tuple[str, ...], replacements: Replacements) -> None:
        self.distribution, self.known, self.replacements = distribution, known, replacements
        self.originals: dict[Callable[..., Any], Callable[..., Any]] = {}  # by ours

    def patch(self) -> None:
        """Put ours where the originals are; again is the same as once.

        Raises:
            ImportError: the package is missing, or its version is not known.
        """
        if self.originals:
            return
        try:
            found = version(self.distribution)
        except PackageNotFoundError:
            raise ImportError(
                f"{self.distribution} is not installed; expected {' or '.join(self.known)}: pip install "
                f"{self.distribution}=={self.known[-1]}"
            ) from None
        if found not in self.known:
            raise ImportError(
                f"{self.distribution} is {found}; expected {' or '.join(self.known)}, which this was tested with: pip "
                f"install {self.distribution}=={self.known[-1]}, or call the functions of gloria_ops.dropin yourself"
            )
        self.originals = {
            ours: getattr(import_module(module), name)
            for module, functions in self.replacements.items()
            for name, ours in functions.items()
        }
        self._swap({original: ours for ours, original in self.originals.items()})

    def unpatch(self) -> None:
        """Put the originals back, also in modules that were imported since."""
        self._swap(self.originals)
        self.originals = {}

    def _swap(self, by_old: dict[Callable[..., Any], Callable[..., Any]]) -> None:
        def new(value: Any) -> Any:
            return next((replaced for old, replaced in by_old.items() if value is old), value)

        packages = {module.partition(".")[0] for module in self.replacements}
        for name, module in list(sys.modules.items()):
            if name.partition(".")[0] not in packages:
                continue
            for attribute, value in list(vars(module).items()):
                if new(value) is not value:
                    setattr(module, attribute, new(value))
                elif isinstance(value, type) and value.__module__ == name:  # a default of its constructor
                    constructor: Any = vars(value).get("__init__")
                    if defaults := getattr(constructor, "__defaults__", None):
                        constructor.__defaults__ = tuple(new(each) for each in defaults)
