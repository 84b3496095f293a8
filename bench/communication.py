"""A model, not a measurement: what the losses of many GPUs send and hold, and what of that computing does not hide.

python -m bench.communication [--tflops 300] [--node-link 450] [--network 50]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

from bench.cases import CASES, Case
from bench.report import markdown

GPUS = (8, 16, 32, 64, 128, 256, 512, 1024)
NODE = 8  # GPUs of a node, each with a network card of its own
ITEM, SUM = 2, 4  # bytes of a bfloat16 and of a float32


@dataclass(frozen=True)
class Assumptions:
    """Rates that the model takes for granted.

    tflops: of the kernels, algorithmic flops (`Case.flops`). No GPU has been measured: 300 is 30 % of what an H100 is
        said to do in dense bfloat16.
    node_link: GB/s that a GPU receives within its node; NVLink of an H100 is said to do 450.
    network: GB/s that a GPU receives through its network card; 400 Gbit/s are 50.
    """

    tflops: float = 300.0
    node_link: float = 450.0
    network: float = 50.0

    def collective(self, gpus: int) -> float:
        """Bytes/s of an all-gather or reduce-scatter, which brings a block into a node once, over all of its cards."""
        return 1e9 * (self.node_link if gpus <= NODE else min(self.node_link, NODE * self.network))

    def direct(self, gpus: int) -> float:
        """Bytes/s between two GPUs, the worst pair: what a ring's step and an all-to-all wait for."""
        return 1e9 * (self.node_link if gpus <= NODE else self.network)


@dataclass(frozen=True)
class Cost:
    """Of one step: bytes that a GPU receives, bytes of other GPUs' items that it holds at once, seconds not hidden."""

    received: float
    held: float
    exposed: float


def compute_seconds(case: Case, gpus: int, assumed: Assumptions, mode: str = "full") -> float:
    """A GPU's own images with the texts of all."""
    return gpus * case.flops(mode) / (1e12 * assumed.tflops)


def gathered_words(case: Case, gpus: int, assumed: Assumptions) -> Cost:
    """All-gather of the words; backward an all-to-all of their gradients, from one such buffer into another."""
    others = (gpus - 1) * words(case) * ITEM
    return Cost(2 * others, 3 * others, others / assumed.collective(gpus) + others / assumed.direct(gpus))


def ring_of_words(case: Case, gpus: int, assumed: Assumptions) -> Cost:
    """Words go round forward and backward, float32 sums of gradients backward; the sums' last hop hides nowhere.

    Held are the block in use and the next one, the gradient of the one in use, and a sum that comes and one that goes.
    """
    block, sums, link = words(case) * ITEM, words(case) * SUM, assumed.direct(gpus)
    forward, backward = (compute_seconds(case, 1, assumed, mode) for mode in ("forward", "backward"))
    late = (gpus - 1) * (max(0.0, block / link - forward) + max(0.0, (block + sums) / link - backward)) + sums / link
    return Cost((gpus - 1) * 2 * block + gpus * sums, 3 * block + 2 * sums, late)


def gathered_images(case: Case, gpus: int, assumed: Assumptions) -> Cost:
    """What words traveling saves: an all-gather of the regions, and a reduce-scatter of their gradients."""
    others = (gpus - 1) * case.batch * case.regions * case.width * ITEM
    return Cost(2 * others, 2 * others, 2 * others / assumed.collective(gpus))


SCHEMES = {"words gathered": gathered_words, "ring of words": ring_of_words, "images gathered": gathered_images}


def words(case: Case) -> int:
    """Values in the words of a GPU's texts."""
    return sum(case.lengths) * case.width


def hidden_up_to(case: Case, assumed: Assumptions) -> float:
    """The kernel rate in TFLOP/s up to which a ring over the network hides its transfers."""
    seconds = {"forward": words(case) * ITEM, "backward": words(case) * (ITEM + SUM)}
    return min(case.flops(mode) / (size / assumed.direct(NODE + 1)) for mode, size in seconds.items()) / 1e12


def lines(case: Case, assumed: Assumptions) -> Iterator[str]:
    """The assumptions, and a row for each number of GPUs."""
    yield (
        f"Model, not measured. A GPU: {case.batch} images of {case.regions} regions, {case.batch} texts of together "
        f"{sum(case.lengths)} words, D = {case.width}, bfloat16, preset `{case.preset}`."
    )
    yield (
        f"Assumed: kernels at {assumed.tflops:g} TFLOP/s, {assumed.node_link:g} GB/s within a node of {NODE}, "
        f"{assumed.network:g} GB/s a GPU between nodes."
    )
    yield ""
    head = [f"{name}: {what}" for name in SCHEMES for what in ("MB in", "MB held", "ms exposed")]
    rows = []
    for gpus in GPUS:
        row = [str(gpus), str(gpus * case.batch), f"{1e3 * compute_seconds(case, gpus, assumed):.1f}"]
        for scheme in SCHEMES.values():
            cost = scheme(case, gpus, assumed)
            row += [f"{cost.received / 1e6:.0f}", f"{cost.held / 1e6:.0f}", f"{1e3 * cost.exposed:.2f}"]
        rows.append(row)
    yield from markdown(["GPUs", "N", "compute, ms", *head], rows)
    yield ""
    limit = hidden_up_to(case, assumed)
    yield f"Between nodes the ring hides all but its last hop up to kernels of {limit:.0f} TFLOP/s."


def main() -> None:
    """Prints the model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tflops", type=float, default=Assumptions.tflops, help="rate of the kernels")
    parser.add_argument("--node-link", type=float, default=Assumptions.node_link, help="GB/s within a node")
    parser.add_argument("--network", type=float, default=Assumptions.network, help="GB/s a GPU between nodes")
    print("\n".join(lines(CASES[0], Assumptions(**vars(parser.parse_args())))))


if __name__ == "__main__":
    main()
