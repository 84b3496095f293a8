"""Which block sizes the kernels run with: a table by compute capability and dtype, shipped beside this file.

`python -m gloria_ops.tune` times others on the GPU at hand and writes a table of the same form; the environment
variable GLORIA_OPS_BLOCKS names it to a process. Nothing is tuned while training.
"""

import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
import triton

from gloria_ops.score import LocalScore

# Known when triton is imported, as triton decides then; only the interpreter takes CPU tensors.
INTERPRETED = bool(triton.knobs.runtime.interpret)
SHIPPED = Path(__file__).with_name("block_sizes.json")
VARIABLE = "GLORIA_OPS_BLOCKS"
Way = Literal["fused", "split"]
# Rows are packed in whole steps of so many components, words and regions.
LARGEST_STEP = 64


class Blocks(NamedTuple):
    """Rows x columns of a block of a product, and how much of the inner dimension is taken at a step.

    Attributes:
        described: operands are read through tensor descriptors, which GPUs of compute capability 9.0 and up have; only
            then may rows be other than a power of two.
    """

    rows: int
    columns: int
    step: int
    warps: int
    stages: int
    described: bool = False

    @property
    def main(self) -> int:
        """The greatest power of two of rows."""
        return 1 << self.rows.bit_length() - 1

    @property
    def tail(self) -> int:
        """The other rows."""
        return self.rows - self.main


class Elementwise(NamedTuple):
    """Words x regions that are taken at a step between two products."""

    words: int
    regions: int
    warps: int


class Choice(NamedTuple):
    """What a problem runs with.

    Attributes:
        way: "fused" = forward is one kernel, for scores without a norm over words and without a cosine only;
            "split" = products of full size, and elementwise kernels between them. Backward is always split.
        chunk_words, chunk_images: of a chunk in backward, at most; chosen so that the products of the gradients fill
            the multiprocessors a whole number of times where D = 768.
        product: the affinities, and the words' gradients.
        regions: the regions' gradients.
        square: the contexts' squares, from Gram matrices or direct.
        gram: the other products with and of Gram matrices; its columns are those of square.
        fused: words x regions of the fused kernel.
        attention, gradient: the elementwise kernels.
    """

    way: Way
    chunk_words: int
    chunk_images: int
    product: Blocks
    regions: Blocks
    square: Blocks
    gram: Blocks
    fused: Blocks
    attention: Elementwise
    gradient: Elementwise

    @property
    def products(self) -> tuple[Blocks, ...]:
        """Of every kernel with a product."""
        return self.product, self.regions, self.square, self.gram, self.fused

    def misfit(self, kind: str) -> str | None:
        """Why kernels of a kind of score cannot run with these; None if they can."""
        sizes = [size for blocks in self.products for size in (blocks.main, blocks.tail or 16, *blocks[1:3])]
        sizes += [self.attention.regions, self.gradient.regions]
        if any(size < 16 or size > 256 or size & (size - 1) for size in sizes):
            return "every size must be a power of two from 16 to 256"
        if any(blocks.tail and not blocks.described for blocks in self.products):
            return "rows that are no power of two need tensor descriptors"
        if any(blocks.described for blocks in (self.square, self.gram)):
            return "square and gram read no tensor descriptors"
        if self.fused.tail:
            return "the rows of fused must be a power of two"
        if any(words < 1 or words & (words - 1) for words in (self.attention.words, self.gradient.words)):
            return "the words of an elementwise kernel must be a power of two"
        if any(blocks.columns < 32 for blocks in self.products):
            return "the columns of a product must be at least 32, of which a quarter is finished at once"
        if max(blocks.step for blocks in self.products) > LARGEST_STEP:
            return f"no step may exceed {LARGEST_STEP}, in whose multiples rows are padded"
        if self.gram.columns != self.square.columns:
            return "gram and square must share their columns, which are the blocks of the Gram matrices"
        if self.way not in get_args(Way):
            return f"way must be one of {', '.join(map(repr, get_args(Way)))}"
        if self.way == "fused" and kind != "plain":
            return "way='fused' is for scores of the kind 'plain' only"
        return None


PRODUCTS = ("product", "regions", "square", "gram", "fused")
ELEMENTWISE = ("attention", "gradient")
PLAIN = ("way", "chunk_words", "chunk_images")

# Small, so that small tests have several blocks of everything.
_SMALL, _SMALL_ELEMENTWISE = Blocks(64, 64, 32, 4, 1), Elementwise(32, 64, 4)
_INTERPRETED = Choice(
    "split",
    11_008,
    64,
    product=_SMALL,
    regions=_SMALL,
    square=_SMALL,
    gram=_SMALL,
    fused=_SMALL,
    attention=_SMALL_ELEMENTWISE,
    gradient=_SMALL_ELEMENTWISE,
)

# Compute capability as 10 * major + minor, bits of an operand, and the kind of score.
Key = tuple[int, int, str]


def chosen_for(device: torch.device, dtype: torch.dtype, score: LocalScore) -> Choice:
    """The blocks for rows of `dtype` on `device`."""
    if INTERPRETED:
        return _INTERPRETED._replace(way="fused" if kind(score) == "plain" else "split")
    major, minor = torch.cuda.get_device_capability(device)
    return chosen(10 * major + minor, dtype, score)


def chosen(capability: int, dtype: torch.dtype, score: LocalScore) -> Choice:
    """The row of the table; a capability between two of the table, or beyond it, runs with the one below."""
    table = read(os.environ.get(VARIABLE) or SHIPPED)
    bits, of_score = 8 * dtype.itemsize if dtype == torch.bfloat16 else 32, kind(score)
    known = [each for each, *rest in table if rest == [bits, of_score]]
    return table[max((each for each in known if each <= capability), default=min(known)), bits, of_score]


def kind(score: LocalScore) -> str:
    """Of a score: "plain" = each word by itself, without its context, so that one kernel can do all; else "normed"."""
    return "plain" if score.word_norm == "none" and score.similarity != "cosine" else "normed"


@lru_cache(maxsize=8)
def read(path: str | Path) -> dict[Key, Choice]:
    """The table of a file.

    Raises:
        ValueError: a file that is none, or a row that the kernels cannot run with; the file and the row are named.
    """
    table: dict[Key, Choice] = {}
    try:
        for row in json.loads(Path(path).read_text(encoding="utf-8")):
            parts: dict[str, Any] = {name: Blocks(**row[name]) for name in PRODUCTS}
            parts |= {name: Elementwise(**row[name]) for name in ELEMENTWISE}
            table[row["capability"], row["bits"], row["kind"]] = Choice(**{name: row[name] for name in PLAIN}, **parts)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is not a table of block sizes ({type(error).__name__}: {error}); expected what "
            f"`python -m gloria_ops.tune` writes. Unset {VARIABLE} for the one that ships"
        ) from error
    for key, choice in table.items():
        if choice.misfit(key[2]):
            raise ValueError(f"{path}, row {key}: {choice.misfit(key[2])}; it is {choice}")
    return table


def write(path: str | Path, table: dict[Key, Choice]) -> None:
    """Write a table, a row on each line."""
    rows = [
        {"capability": key[0], "bits": key[1], "kind": key[2]}
        | {name: getattr(choice, name) for name in PLAIN}
        | {name: getattr(choice, name)._asdict() for name in (*PRODUCTS, *ELEMENTWISE)}
        for key, choice in sorted(table.items())
    ]
    Path(path).write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n", encoding="utf-8")
