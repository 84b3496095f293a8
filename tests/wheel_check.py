"""The installed wheel runs alone: scores and gradients by the compiled kernels, which share torch's OpenMP runtime.

`make test-wheel` runs it in an environment that has the wheel and what it requires, isolated from the checkout.
"""

from importlib.metadata import version
from pathlib import Path

import torch

import gloria_ops
from gloria_ops import local_scores

CHECKOUT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Fail by an assertion that names what was found."""
    packages = Path(gloria_ops.__file__).resolve().parents[1]
    assert packages.name == "site-packages", f"gloria_ops was imported from {packages}; expected an installed one"
    assert gloria_ops.__version__ == version("gloria-ops")

    results = {backend: _scores_and_gradients(backend) for backend in ("cpu", "reference")}
    for got, want in zip(results["cpu"], results["reference"], strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-5)

    mapped = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "libgomp" in line}
    assert len(mapped) == 1, f"expected one OpenMP runtime, torch's; the process has mapped {sorted(mapped)}"
    print(f"gloria-ops {gloria_ops.__version__} from {packages}, OpenMP runtime {mapped.pop()}")


def _scores_and_gradients(backend: str) -> tuple[torch.Tensor, ...]:
    random = torch.Generator().manual_seed(0)
    dtype = torch.float64 if backend == "reference" else torch.float32
    regions, words = (torch.randn(3, rows, 40, generator=random).to(dtype).requires_grad_() for rows in (9, 5))
    scores = local_scores(regions, words, word_lengths=torch.tensor([5, 2, 4]), backend=backend)
    return scores.detach(), *torch.autograd.grad(scores.square().sum(), (regions, words))


if __name__ == "__main__":
    main()
