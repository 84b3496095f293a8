"""Reads recipes: those of the package, and your own YAML files."""

from collections.abc import Collection
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml


def available_recipes() -> list[str]:
    """Return the names of the package's recipes."""
    return sorted(Path(each.name).stem for each in files(__package__).iterdir() if each.name.endswith(".yaml"))


def load_recipe(name_or_path: str, options: Collection[str]) -> dict[str, Any]:
    """Return the options that a recipe sets.

    Args:
        name_or_path: name of a recipe of the package, or path of a YAML file.
        options: names that it may set.

    Returns:
        Values by name, unchecked: the options' own class checks them.

    Raises:
        ValueError: neither a name nor a file; not YAML of the form `name: value`; an unknown option.
    """
    if name_or_path in available_recipes():
        text = files(__package__).joinpath(f"{name_or_path}.yaml").read_text(encoding="utf-8")
    elif Path(name_or_path).is_file():
        text = Path(name_or_path).read_text(encoding="utf-8")
    else:
        names = ", ".join(map(repr, available_recipes()))
        raise ValueError(f"recipe is {name_or_path!r}; expected {names} or a YAML file")
    try:
        recipe = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"the recipe {name_or_path} is not valid YAML: {error}") from error
    if not isinstance(recipe, dict):
        raise ValueError(f"the recipe {name_or_path} holds {type(recipe).__name__}; expected lines of `option: value`")
    unknown = sorted(str(name) for name in recipe if name not in options)
    if unknown:
        raise ValueError(f"the recipe {name_or_path} sets {', '.join(unknown)}; expected {', '.join(sorted(options))}")
    return recipe
