"""The page of drop-ins runs, and the two lines of each module stand in it."""

import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import gloria_ops.dropin

PAGE = (Path(__file__).parents[2] / "docs" / "dropins.md").read_text()
MODULES = [module.name for module in pkgutil.iter_modules(gloria_ops.dropin.__path__) if module.name != "shared"]


def test_the_examples_run():
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if "# before" not in line]
    namespace: dict[str, object] = {}
    exec("\n".join(lines), namespace)
    assert namespace["images"].grad.isfinite().all()
    assert namespace["scores"].shape == namespace["colbert"].shape == (4, 4)


@pytest.mark.parametrize("name", MODULES)
def test_each_module_says_what_it_replaces(name):
    module = importlib.import_module(f"gloria_ops.dropin.{name}")
    shown = [line.strip() for line in module.__doc__.splitlines() if re.search("# (before|after)", line)]
    assert len(shown) >= 2
    assert all(line in PAGE.splitlines() for line in shown)
    assert f"gloria_ops/dropin/{name}.py" in PAGE


@pytest.mark.parametrize("name", sorted({*MODULES} - {"maxsim"}))  # which replaces no function by its name
def test_names_before_are_names_after(name):
    module = importlib.import_module(f"gloria_ops.dropin.{name}")
    imported = re.findall(r"from (\S+) import (.*?)  # (before|after)", module.__doc__)
    assert imported
    for (_, before, _), (source, after, _) in zip(imported[::2], imported[1::2], strict=True):
        assert before == after
        assert source == module.__name__
