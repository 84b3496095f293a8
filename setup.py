"""Builds the compiled kernels through CMake; everything else is in pyproject.toml."""

import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext


class CMakeBuild(build_ext):
    """Runs CMake with the interpreter that builds, so that the module is named and linked for it."""

    def build_extension(self, ext: Extension) -> None:
        """Configure and build incrementally; CMake decides what is out of date."""
        target = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        source = Path(__file__).resolve().parent
        build = Path(self.build_temp).resolve()
        build.mkdir(parents=True, exist_ok=True)
        configure = [
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={target}",
            "-GNinja",
        ]
        subprocess.run(["cmake", "-S", str(source), "-B", str(build), *configure], check=True)
        name = ext.name.rpartition(".")[2]
        known = subprocess.run(["ninja", "-C", str(build), "-t", "query", name], capture_output=True)
        # CMake has said why it leaves an optional extension out.
        if not ext.optional or known.returncode == 0:
            subprocess.run(["cmake", "--build", str(build), "--target", name], check=True)


setup(
    ext_modules=[Extension("gloria_ops._C", sources=[]), Extension("gloria_ops._cuda", sources=[], optional=True)],
    cmdclass={"build_ext": CMakeBuild},
)
