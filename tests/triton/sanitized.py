"""One forward and backward of small problems, for compute-sanitizer: `make gpu-check` runs it."""

import torch
from checking import SCORES, problem

from gloria_ops.backends import triton as backend

for name in ("released", "paper", "scan_t2i", "maxsim"):
    # Several blocks of regions, short texts that share a tile, and one that fills several.
    inputs = problem(2, 5, 150, 140, 40, torch.bfloat16, device="cuda")
    scores = backend.forward(*inputs, SCORES[name])
    backend.backward(torch.ones_like(scores), *inputs, SCORES[name])
    torch.cuda.synchronize()
print("done")
