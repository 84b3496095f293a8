"""Builds the kernels of a checkout in place, only what has changed: `python setup.py`, with CMake, Ninja and pybind11.

Wheels and installations go through scikit-build-core; see pyproject.toml.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
BUILD = ROOT / "build" / "release"

for step in (
    ["-S", ROOT, "-B", BUILD, "-GNinja", f"-DPython_EXECUTABLE={sys.executable}"],
    ["--build", BUILD],
    ["--install", BUILD, "--prefix", ROOT],
):
    subprocess.run(["cmake", *step], check=True)
