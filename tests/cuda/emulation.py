"""Building the CUDA kernels for the emulator: the same sources, compiled for this processor."""

import hashlib
import importlib.machinery
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "csrc" / "cuda"
BUILD = ROOT / "build" / "emulated"
UNITS = ("common.cu", "sm80.cu", "sm90.cu", "bindings.cpp")
NAME = "_cuda_emulated"
# Contraction of products and sums as nvcc has it: some faults of a kernel show only then.
FLAGS = ("-std=c++17", "-march=x86-64-v3", "-ffp-contract=fast", "-fPIC", "-fvisibility=hidden", "-w")


def missing() -> str | None:
    """Why the emulator cannot be built here; None if it can."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return f"the emulator switches stacks on x86-64 only, not on {platform.machine()}"
    if shutil.which("g++") is None:
        return "g++ is not installed"
    return None


def digest(folder: Path) -> str:
    found = hashlib.sha256(" ".join(FLAGS).encode())
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            found.update(str(file.relative_to(folder)).encode() + file.read_bytes())
    return found.hexdigest()[:16]


def build(
    sources: Path = SOURCES, units: tuple[str, ...] = UNITS, optimize: str = "-O2", others: Path | None = None
) -> Path:
    """The extension module of `sources`; the objects of units that are not named are taken from the folder `others`."""
    folder = BUILD / digest(sources)
    module = folder / f"{NAME}.so"
    if module.exists():
        return module
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [(unit, subprocess.Popen(_command(sources / unit, folder, optimize))) for unit in units]
    failed = [unit for unit, job in jobs if job.wait()]
    assert not failed, f"g++ could not compile {failed}"
    objects = [(folder if others is None or unit in units else others) / f"{unit}.o" for unit in UNITS]
    # Under another name until it is whole: several processes may build at once.
    partial = folder / f"{NAME}.{os.getpid()}"
    subprocess.run(["g++", "-shared", "-o", partial, *objects], check=True)
    partial.rename(module)
    return module


def _command(source: Path, folder: Path, optimize: str) -> list[str | Path]:
    import pybind11  # where nothing is built, it need not be installed

    includes = [f"-I{sysconfig.get_path('include')}", f"-I{pybind11.get_include()}"]
    defines = ["-DGLORIA_EMULATED", f"-DGLORIA_MODULE={NAME}"]
    if source.name == "bindings.cpp":  # much to compile, and nothing that takes time
        optimize = "-O0"
    return ["g++", *FLAGS, optimize, *includes, *defines, "-x", "c++", "-c", source, "-o", folder / f"{source.name}.o"]


def load(module: Path) -> ModuleType:
    if NAME not in sys.modules:
        loader = importlib.machinery.ExtensionFileLoader(NAME, str(module))
        spec = importlib.util.spec_from_loader(NAME, loader)
        sys.modules[NAME] = importlib.util.module_from_spec(spec)
        loader.exec_module(sys.modules[NAME])
    return sys.modules[NAME]


def compiled_program(source: Path) -> Path:
    """A test program without Python."""
    BUILD.mkdir(parents=True, exist_ok=True)
    program = BUILD / f"{source.stem}.{os.getpid()}"
    subprocess.run(["g++", *FLAGS, "-O1", f"-I{SOURCES}", source, "-o", program], check=True)
    return program
