"""Reads the version from the installed package's metadata; pyproject.toml alone defines it."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("gloria-ops")
except PackageNotFoundError:
    __version__ = "0+not.installed"  # a checkout on the path, on a machine where nothing can be installed
