"""The pages: links lead somewhere, snippets run, and the API page names what imports, no less and no more."""

import importlib
import pkgutil
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

import gloria
import gloria_ops.dropin

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("bench/*.md"), *ROOT.glob("examples/*.md")])
README = (ROOT / "README.md").read_text(encoding="utf-8")
API = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
DROPINS = (ROOT / "docs" / "dropins.md").read_text(encoding="utf-8")
PACKAGES = sorted(
    package.name
    for root in (gloria_ops, gloria)
    for package in [
        pkgutil.ModuleInfo(None, root.__name__, True),
        *pkgutil.walk_packages(root.__path__, f"{root.__name__}."),
    ]
    if package.ispkg and hasattr(importlib.import_module(package.name), "__all__")
)
NAME = re.compile(r"`([A-Za-z_][\w.]*)`")


def sections() -> dict[str, str]:
    """The text under each heading of the API page that names a module."""
    return dict(re.findall(r"^## `([\w.]+)`.*?\n(.*?)(?=^## |\Z)", API, flags=re.MULTILINE | re.DOTALL))


def public(module: str) -> list[str]:
    return [name for name in importlib.import_module(module).__all__ if not name.startswith("__")]


def imports(module: str, name: str) -> bool:
    """Whether a name is an attribute of a module, an attribute of such a one, or the full name of a module."""
    found = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is not None or (name.startswith(f"{module}.") and find_spec(name) is not None)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    missing = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        file, _, anchor = target.partition("#")
        if "://" in target:
            continue
        path = page.parent / file if file else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            missing.append(target)
    assert not missing


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_readme_is_short():
    assert len(README.splitlines()) <= 110


def test_the_snippets_of_readme_run():
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    names: dict[str, object] = {}
    exec("\n".join(line for block in blocks for line in block.splitlines() if "# before" not in line), names)
    assert names["scores"].shape == (3, 3)
    assert names["regions"].grad.isfinite().all()


def test_every_room_with_public_names_has_a_heading():
    assert {"gloria_ops", "gloria_ops.distributed", "gloria", "gloria.data"} <= {*PACKAGES}
    assert sorted(sections()) == PACKAGES


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_under_its_heading(package):
    assert public(package)
    assert not {*public(package)} - {*NAME.findall(sections()[package])}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_name_under_a_heading_imports_from_there(package):
    assert not [name for name in NAME.findall(sections()[package]) if not imports(package, name)]


def test_every_module_that_the_page_runs_exists():
    run = re.findall(r"`python -m ([\w.]+)", API)
    assert run
    assert not [name for name in run if find_spec(name) is None]


def test_every_dropin_is_on_its_page():
    modules = [each.name for each in pkgutil.iter_modules(gloria_ops.dropin.__path__, "gloria_ops.dropin.")]
    named = [
        name for module in modules if hasattr(importlib.import_module(module), "__all__") for name in public(module)
    ]
    assert named
    assert not [name for name in named if not re.search(rf"\b{name}\b", DROPINS)]


def test_every_command_is_on_the_api_page():
    from gloria.cli import app

    named = [command.name or command.callback.__name__.replace("_", "-") for command in app.registered_commands]
    named += [
        f"{group.name} {command.name or command.callback.__name__.replace('_', '-')}"
        for group in app.registered_groups
        for command in group.typer_instance.registered_commands
    ]
    assert sorted(re.findall(r"`gloria ([a-z -]+?)`", sections()["gloria.cli"])) == sorted(named)
