"""The command `gloria`, one module for each family of commands."""

from gloria.cli.command import app, main

__all__ = ["app", "main"]
