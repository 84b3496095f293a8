"""The command `gloria` on a rank; by --crash N or --terminate N before its arguments, rank 1 ends in its N-th step."""

import os
import signal
import sys

from crashing import crashing_forward, forward_with

from gloria import GloriaModel
from gloria.cli import main


def command(*arguments: str) -> None:
    """Run `gloria` with the arguments; a rank of its own process, which the exit status ends."""
    if arguments[0] in ("--crash", "--terminate"):
        end, call = arguments[0], int(arguments[1])
        if os.environ["RANK"] == "1" and end == "--crash":
            GloriaModel.forward = crashing_forward(call, RuntimeError("rank 1 crashes"))
        elif os.environ["RANK"] == "1":
            GloriaModel.forward = forward_with(call, lambda: os.kill(os.getpid(), signal.SIGTERM))
        arguments = arguments[2:]
    sys.argv = ["gloria", *arguments]
    try:
        main()
    except SystemExit as ended:
        if ended.code:
            raise
