"""Which model a folder holds, said before it is loaded."""

import json
from pathlib import Path

from gloria.configuration import GloriaConfig
from gloria.modeling import GloriaModel


def check_folder(folder: str | Path) -> None:
    """Raise ValueError where a folder does not hold a `GloriaModel`: nothing, a head, or a model of another kind."""
    file = Path(folder) / "config.json"
    held = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    kind, names = held.get("model_type"), held.get("architectures") or [GloriaModel.__name__]
    if kind != GloriaConfig.model_type or GloriaModel.__name__ not in names:
        other = f"a {names[0]}" if kind == GloriaConfig.model_type else f"a model of the type {kind}"
        what = other if held else "no trained model"
        raise ValueError(
            f"{folder} holds {what}; expected the run folder that `gloria train` wrote, or `gloria convert`"
        )
