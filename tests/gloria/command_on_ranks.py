"""The command `gloria` as torchrun starts it; after --crash N or --terminate N, rank 1 does so in its N-th step."""

import os
import signal
import sys

from crashing import crashing_forward, forward_with

from gloria import GloriaModel
from gloria.cli import main

if sys.argv[1] in ("--crash", "--terminate"):
    end, call = sys.argv[1], int(sys.argv[2])
    if os.environ["RANK"] == "1" and end == "--crash":
        GloriaModel.forward = crashing_forward(call, RuntimeError("rank 1 crashes"))
    elif os.environ["RANK"] == "1":
        GloriaModel.forward = forward_with(call, lambda: os.kill(os.getpid(), signal.SIGTERM))
    del sys.argv[1:3]
main()
