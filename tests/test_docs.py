"""The pages: links lead somewhere, snippets of README run, and the API page has every public name and command."""

import importlib
import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("bench/*.md"), *ROOT.glob("examples/*.md")])
API = ROOT / "docs" / "api.md"
PACKAGES = ("gloria_ops", "gloria_ops.distributed", "gloria", "gloria.data")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    missing = [each for each in targets if "://" not in each and not (page.parent / each).exists()]
    assert not missing


def test_the_snippets_of_readme_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # What the retrieval example reads: regions of three images.
    np.random.default_rng(0).standard_normal((30, 768)).astype(np.float16).tofile("regions.f16")
    np.save("offsets.npy", np.array([0, 10, 18, 30]))
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    # Models of the hub are not there for a test, and ten best of three images do not exist.
    runnable = [block.replace("k=10", "k=3") for block in blocks if "from_image_text_pretrained" not in block]
    lines = [line for block in runnable for line in block.splitlines() if "# before" not in line]
    names: dict[str, object] = {}
    exec("\n".join(lines), names)
    assert names["regions"].grad.isfinite().all()
    assert names["images"].shape == (3, 3)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_on_the_api_page(package):
    page = API.read_text(encoding="utf-8")
    public = [name for name in importlib.import_module(package).__all__ if not name.startswith("__")]
    assert public
    assert not [name for name in public if f"`{name}" not in page]


def test_every_command_is_on_the_api_page():
    from gloria.cli import app

    page = API.read_text(encoding="utf-8")
    named = [command.name or command.callback.__name__.replace("_", "-") for command in app.registered_commands]
    named += [
        f"{group.name} {command.name or command.callback.__name__.replace('_', '-')}"
        for group in app.registered_groups
        for command in group.typer_instance.registered_commands
    ]
    assert not [name for name in named if f"`gloria {name}" not in page]
