"""What validate-data says of images that can be read: flat ones are bad, odd ones are warned of."""

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from gloria.cli import app
from gloria.cli.common import good_rows
from gloria.data import find_problems, read_table

NOISE = np.random.default_rng(0).integers(0, 256, (40, 50), dtype=np.uint8)


@pytest.fixture
def checked(tmp_path):
    """The table of some images, each of them saved, and what is said of them."""

    def check(**images):
        for name, values in images.items():
            if values is not None:
                Image.fromarray(values).save(tmp_path / f"{name}.png")
        path = tmp_path / "t.csv"
        names = [f"{name}.png" if values is not None else f"{name}.dcm" for name, values in images.items()]
        path.write_text("image,report\n" + "".join(f"{name},Words.\n" for name in names))
        return path, [(problem.bad, str(problem)) for problem in find_problems(read_table(path))]

    return check


def test_images_of_one_gray_level_are_bad(checked):
    color = np.broadcast_to(np.uint8([10, 20, 30]), (4, 5, 3))
    path, problems = checked(
        black=np.zeros((20, 16), np.uint8),
        white=np.full((20, 16), 255, np.uint8),
        one=np.zeros((1, 1), np.uint8),
        color=np.ascontiguousarray(color),
        deep=np.zeros((9, 9), np.uint16),
        noise=NOISE,
    )
    levels = [(2, 0), (3, 255), (4, 0), (5, 18), (6, 0)]
    assert problems == [
        (True, f"line {line}: the image has one gray level only, {level} of 255") for line, level in levels
    ]
    result = CliRunner().invoke(app, ["validate-data", str(path)])
    assert result.exit_code == 1
    assert "6 rows, 1 good, 5 bad" in result.output


def test_images_of_nearly_one_gray_level_are_warned_of(checked):
    marked = NOISE // 16 + 100  # 100 to 115
    marked[0, :10] = 255
    enough = NOISE // 15 + 100
    path, problems = checked(marked=marked, enough=enough, noise=NOISE)
    assert problems == [
        (
            False,
            "line 2: warning: the image is nearly of one gray level: "
            "98 % of its pixels lie in levels 100 to 115 of 255",
        )
    ]
    result = CliRunner().invoke(app, ["validate-data", str(path)])
    assert result.exit_code == 0
    assert "line 2: warning: the image is nearly of one gray level" in result.output
    assert "3 rows, 3 good, 0 bad" in result.output
    assert len(good_rows(path, skip=False)) == 3


def test_dicom_elements_without_meaning_are_warned_of(checked, tmp_path, dicom_file):
    for name in ("a", "b"):
        dicom_file(tmp_path / f"{name}.dcm", NOISE if name == "a" else NOISE.T, bits=8, WindowCenter=99, WindowWidth=0)
    _, problems = checked(a=None, b=None)
    message = "warning: WindowWidth is 0; the image is shown without that window"
    assert problems == [(False, f"line 2: {message}"), (False, f"line 3: {message}")]
