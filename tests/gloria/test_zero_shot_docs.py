"""The page on zero-shot classification: its file is read, its Python runs, its commands are those of the program."""

import re
from pathlib import Path

from PIL import Image
from typer.testing import CliRunner

from gloria.cli import app

PAGE = (Path(__file__).parents[2] / "docs" / "zero-shot.md").read_text()


def test_the_page_runs(model, processor, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for part in (model, processor):
        part.save_pretrained("runs/first")
    for name, picture in zip(("image.png", "other.png"), pictures, strict=False):
        Image.fromarray(picture).save(name)
    Path("images.csv").write_text("image,report,label\nimage.png,,Edema\nother.png,,Atelectasis\n")
    (mine,) = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    Path("mine.yaml").write_text(mine)

    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    namespace: dict[str, object] = {}
    exec("\n".join(blocks), namespace)
    assert {each["label"] for each in namespace["best_first"]} == {"Pneumonia", "No Finding"}
    assert namespace["scores"].shape == (2, 2)
    assert namespace["standardized"].shape == (1, 2)

    commands = re.findall(r"^    gloria (.*)$", PAGE, flags=re.MULTILINE)
    assert commands
    for command in commands:
        result = CliRunner().invoke(app, [*command.split(), "--cpu"])
        assert result.exit_code == 0, result.output
        assert "accuracy over all classes" in result.output
    assert Path("predictions.csv").is_file()
