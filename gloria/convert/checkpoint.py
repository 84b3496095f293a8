"""Reads a Lightning checkpoint without running any code in it."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gloria.messages import plain, shown

PREFIX = "gloria."
SETTINGS = 100_000  # most values of hyper-parameters
FOREIGN = 20  # most names of objects in a message
# Lightning and OmegaConf put these objects beside the weights. None is imported: each name becomes an empty class that
# keeps its state in the file. Any other name (os.system, builtins.eval) makes the file refused.
PACKAGES = ("omegaconf", "pytorch_lightning", "lightning")
NAMES = {
    "typing.Any",
    "collections.defaultdict",
    "numpy.dtype",
    *(f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")),  # a metric's value
    *(f"builtins.{each}" for each in ("bool", "dict", "float", "int", "list", "set", "str", "tuple")),
}


class _Placeholder:
    """Stands for an object of a checkpoint: takes any arguments, does nothing, and keeps its state."""

    def __init__(self, *_arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            vars(self).update(state)


def read_checkpoint(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the weights and hyper-parameters of a checkpoint of the released code.

    It loads with `weights_only=True`: it runs no code of the file, and imports no package that the file names.

    Returns:
        The weights under their names in the released code, without the prefix "gloria." of its Lightning module; and
        the hyper-parameters as nested dicts and lists, {} if there are none.

    Raises:
        FileNotFoundError: `path` does not exist.
        ValueError: not a checkpoint, a checkpoint without weights, or one that names objects other than those of
            Lightning and OmegaConf.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected a checkpoint that the released code wrote")
    loaded = _load_safely(path)
    weights = loaded.get("state_dict") if isinstance(loaded, dict) else None
    if not isinstance(weights, dict) or not all(map(_is_weight, weights, weights.values())):
        held = f"the keys {shown(list(loaded))}" if isinstance(loaded, dict) else f"a {type(loaded).__name__}"
        raise ValueError(
            f"{path} holds {held}; expected a Lightning checkpoint, whose state_dict holds dense tensors by name"
        )
    try:
        hyper_parameters = _as_builtins(loaded.get("hyper_parameters", {}))
    except RecursionError:
        raise ValueError(
            f"{path} has hyper_parameters that hold themselves, or more than {SETTINGS:,} values; save a checkpoint "
            "without them, and the released settings are taken"
        ) from None
    return (
        {name.removeprefix(PREFIX): tensor for name, tensor in weights.items()},
        hyper_parameters if isinstance(hyper_parameters, dict) else {},
    )


def _load_safely(path: Path) -> Any:
    try:
        named = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception as error:  # a damaged pickle raises any kind of error
        raise ValueError(f"{path} is not a checkpoint of torch 1.6 or later: {_one_line(error)}") from error
    foreign = sorted(name for name in named if name not in NAMES and name.split(".")[0] not in PACKAGES)
    if foreign:
        named_by_file = ", ".join(map(plain, foreign[:FOREIGN]))
        raise ValueError(
            f"{path} is refused: it names {named_by_file}, which weights and settings do not need, and to read which "
            "may run code. Load it where it is trusted, and save its state_dict and hyper_parameters alone"
        )
    inert: list[Any] = [(type(name.rsplit(".", 1)[1], (_Placeholder,), {}), name) for name in named]
    try:
        with torch.serialization.safe_globals(inert):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise ValueError(f"{path} cannot be read without running what is in it: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    """Return the message of an error in one line, or its type if it has none."""
    return plain(" ".join(str(error).split()) or type(error).__name__)


def _is_weight(name: Any, held: Any) -> bool:
    return isinstance(name, str) and isinstance(held, Tensor) and held.layout is torch.strided and not held.is_quantized


def _as_builtins(held: Any) -> Any:
    """Turn OmegaConf's containers into dicts and lists; other objects stay unchanged.

    Raises:
        RecursionError: a value that holds itself, or more values than `SETTINGS`, repeated ones included.
    """
    left = SETTINGS

    def to_builtins(node: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise RecursionError
        if isinstance(node, _Placeholder):
            inner = vars(node)
            return to_builtins(inner["_content"]) if "_content" in inner else inner.get("_val", node)
        if isinstance(node, dict):
            return {name: to_builtins(value) for name, value in node.items()}
        if isinstance(node, (list, tuple)):
            return [to_builtins(value) for value in node]
        return node

    return to_builtins(held)
