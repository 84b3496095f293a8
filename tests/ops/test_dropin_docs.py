"""The page of drop-ins runs, and the recipe of each module stands in it."""

import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import gloria_ops.dropin

PAGE = (Path(__file__).parents[2] / "docs" / "dropins.md").read_text()
MODULES = [
    module.name
    for module in pkgutil.iter_modules(gloria_ops.dropin.__path__)
    if module.name not in ("shared", "patching")
]


def test_the_examples_run():
    """But for what stands in files of theirs, which test_dropin_recipes.py runs, and what needs their packages."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    lines = [line for block in blocks if "# at the end of" not in block for line in block.splitlines()]
    namespace: dict[str, object] = {}
    exec("\n".join(line for line in lines if "# before" not in line and ".patch()" not in line), namespace)
    assert namespace["images"].grad.isfinite().all()
    assert namespace["scores"].shape == namespace["colbert"].shape == (4, 4)


@pytest.mark.parametrize("name", MODULES)
def test_each_module_says_what_it_replaces(name):
    module = importlib.import_module(f"gloria_ops.dropin.{name}")
    shown = [line.strip() for line in re.findall(r"^    .*$", module.__doc__, flags=re.MULTILINE)]
    assert len(shown) >= 2
    assert not [line for line in shown if not re.search(f"^ *{re.escape(line)}$", PAGE, flags=re.MULTILINE)]
    assert f"gloria_ops/dropin/{name}.py" in PAGE


@pytest.mark.parametrize("name", sorted({*MODULES} - {"maxsim"}))  # which replaces no function by its name
def test_names_before_are_names_after(name):
    module = importlib.import_module(f"gloria_ops.dropin.{name}")
    imported = re.findall(r"from (\S+) import ([\w, ]*\w)", module.__doc__)
    before = [names for source, names in imported if not source.startswith("gloria_ops.")]
    after = [names for source, names in imported if source == module.__name__]
    assert after
    assert not before or before == after
    assert all(hasattr(module, each) for names in after for each in names.split(", "))
