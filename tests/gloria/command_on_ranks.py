"""The command `gloria` as torchrun starts it; after --crash N, the N-th forward pass of training crashes on rank 1."""

import os
import sys

from crashing import crashing_forward

from gloria import GloriaModel
from gloria.cli import main

if sys.argv[1] == "--crash":
    if os.environ["RANK"] == "1":
        GloriaModel.forward = crashing_forward(int(sys.argv[2]), RuntimeError("rank 1 crashes"))
    del sys.argv[1:3]
main()
