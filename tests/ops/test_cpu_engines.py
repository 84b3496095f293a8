"""No engine shares code with another: of a shared function the linker keeps one copy, in one engine's instructions.

Processors that lack them would fail in every engine.
"""

import subprocess
from pathlib import Path

import pytest

OBJECTS = Path(__file__).parents[2] / "build" / "release" / "CMakeFiles"


def code_visible_to_the_linker(file: Path) -> list[str]:
    """Demangled names of the functions that an object file defines, weak ones included, but for its local ones."""
    listed = subprocess.run(["nm", "-C", "--defined-only", file], capture_output=True, text=True, check=True).stdout
    symbols = [line.split(maxsplit=2)[1:] for line in listed.splitlines()]
    return [name for kind, name in symbols if kind in "TWi"]


def engines_built() -> dict[str, Path]:
    found = {each.name.removeprefix("engine_").removesuffix(".dir"): each for each in OBJECTS.glob("engine_*.dir")}
    return {name: folder / "csrc" / "cpu" / "engine.cpp.o" for name, folder in found.items()}


def test_the_build_has_left_the_engines_object_files():
    assert "baseline" in engines_built(), f"no object files of engines in {OBJECTS}; `make setup` leaves them there"


@pytest.mark.parametrize("engine", sorted(engines_built()))
def test_every_function_belongs_to_its_engine_by_name(engine):
    defined = code_visible_to_the_linker(engines_built()[engine])
    entry = f"gloria::engine_{engine}()"
    assert entry in defined
    # Functions within generic lambdas have names that nm does not always demangle.
    own = f"gloria::{engine}::", f"6gloria{len(engine)}{engine}"
    assert not [name for name in defined if name != entry and not any(each in name for each in own)]
