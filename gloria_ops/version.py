"""The version, which stands in pyproject.toml alone: the installed package's metadata tell it."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("gloria-ops")
except PackageNotFoundError:
    __version__ = "0+not.installed"  # a checkout on the path, such as on a machine where nothing can be installed
