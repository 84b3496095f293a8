"""`python -m gloria` is the command `gloria`."""

from gloria.cli import main

main()
