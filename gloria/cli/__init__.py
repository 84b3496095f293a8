"""The command `gloria`, one module for each room of commands."""

from gloria.cli.command import app, main

__all__ = ["app", "main"]
