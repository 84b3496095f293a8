"""Which block sizes the kernels run with: a table by compute capability and dtype, shipped beside this file.

`python -m gloria_ops.tune` times others on the GPU at hand and writes a table of the same form; the environment
variable GLORIA_OPS_BLOCKS names it to a process. Nothing is tuned while training.
"""

import json
import math
import os
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
import triton

from gloria_ops.score import LocalScore

# Known when triton is imported, as triton decides then; only the interpreter takes CPU tensors.
INTERPRETED = bool(triton.knobs.runtime.interpret)
SHIPPED = Path(__file__).with_name("blocks.json")
VARIABLE = "GLORIA_OPS_BLOCKS"
KERNELS = ("forward", "gradient", "product")


class Blocks(NamedTuple):
    """Rows x columns of a block of results, and how much of the inner dimension is taken at a step."""

    rows: int
    columns: int
    step: int
    warps: int
    stages: int


class Choice(NamedTuple):
    """What a problem runs with.

    Attributes:
        forward: regions x words of a tile of the forward kernel.
        gradient: the same of the kernel that makes gs; its columns are those of `forward`.
        product: what of the Gram matrix and of the products of backward is made at once.
        programs: of the forward kernel on each multiprocessor; each walks over many work items and owns a scratch.
    """

    forward: Blocks
    gradient: Blocks
    product: Blocks
    programs: int

    @property
    def rows(self) -> int:
        """What the regions of an image are padded to a multiple of, in scratch."""
        return max(self.forward.rows, self.gradient.rows, self.product.rows)

    def misfit(self) -> str | None:
        """Why the kernels cannot run with these; None if they can."""
        sizes = [size for kernel in KERNELS for size in getattr(self, kernel)[:3]]
        if any(size < 16 or size & (size - 1) for size in sizes):
            return "every size must be a power of two of at least 16"
        if self.forward.columns != self.gradient.columns:
            return "forward and gradient must share their columns, which are the tiles of words"
        for kernel, read_by in (("forward", "forward"), ("forward", "gradient"), ("gradient", "product")):
            if getattr(self, kernel).rows % getattr(self, read_by).step:
                return f"the rows of {kernel} must be a multiple of the step of {read_by}, which reads them"
        if self.forward.columns % self.product.step:
            return "the columns of forward must be a multiple of the step of product"
        return None


# Small, so that small tests have several blocks of everything.
_INTERPRETED = Choice(Blocks(32, 32, 16, 4, 1), Blocks(16, 32, 16, 4, 1), Blocks(64, 16, 16, 4, 1), 1)

# Major compute capability, bits of an operand, and the kind of score.
Key = tuple[int, int, str]


def blocks(device: torch.device, dtype: torch.dtype, score: LocalScore) -> Choice:
    """The blocks for rows of `dtype` on `device`."""
    if INTERPRETED:
        return _INTERPRETED
    return chosen(torch.cuda.get_device_capability(device)[0], dtype, score)


def chosen(major: int, dtype: torch.dtype, score: LocalScore) -> Choice:
    """The row of the table; a capability between two of the table, or beyond it, runs with the one below."""
    table = read(os.environ.get(VARIABLE) or SHIPPED)
    bits, of_score = 8 * dtype.itemsize, kind(score)
    known = [capability for capability, *rest in table if rest == [bits, of_score]]
    return table[max((each for each in known if each <= major), default=min(known)), bits, of_score]


def kind(score: LocalScore) -> str:
    """What decides how many registers the kernels need beside those of the product."""
    if score.word_norm == "softmax":
        return "softmax"
    words_apart = score.word_norm == "none" and score.similarity == "dot" and math.isfinite(score.attention_scale)
    return "apart" if words_apart else "other"


@lru_cache(maxsize=8)
def read(path: str | Path) -> dict[Key, Choice]:
    """The table of a file.

    Raises:
        ValueError: a file that is none, or a row that the kernels cannot run with; the file and the row are named.
    """
    table: dict[Key, Choice] = {}
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))
        for row in rows:
            each = {kernel: Blocks(**row[kernel]) for kernel in KERNELS}
            table[row["capability"], row["bits"], row["kind"]] = Choice(**each, programs=row["programs"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is no table of blocks ({type(error).__name__}: {error}); expected what "
            f"`python -m gloria_ops.tune` writes. Unset {VARIABLE} for the one that ships"
        ) from error
    for key, choice in table.items():
        if choice.misfit():
            raise ValueError(f"{path}, row {key}: {choice.misfit()}; it is {choice}")
    return table


def write(path: str | Path, table: dict[Key, Choice]) -> None:
    """Writes a table, a row on each line."""
    rows = [
        {"capability": key[0], "bits": key[1], "kind": key[2]}
        | {kernel: getattr(choice, kernel)._asdict() for kernel in KERNELS}
        | {"programs": choice.programs}
        for key, choice in sorted(table.items())
    ]
    Path(path).write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n", encoding="utf-8")


def programs(device: torch.device, choice: Choice) -> int:
    """Programs of the forward kernel that run at once."""
    if INTERPRETED:
        return 2
    return choice.programs * torch.cuda.get_device_properties(device).multi_processor_count


class Precision(NamedTuple):
    """How products are taken: dtype of what lies between two products, and Triton's precision of each kind."""

    scratch: torch.dtype
    affinity: str
    square: str


def precision(dtype: torch.dtype, float32: str | None = None) -> Precision:
    """float32 rows follow torch.get_float32_matmul_precision(): "highest" is exact, below it three TF32 products.

    float16 rows keep float32 scratch, multiplied as TF32: the same mantissa, but |v|^2 may exceed 65504.
    """
    if dtype == torch.bfloat16:
        return Precision(torch.bfloat16, "ieee", "ieee")
    if dtype == torch.float16:
        return Precision(torch.float32, "ieee", "tf32")
    exact = (float32 or torch.get_float32_matmul_precision()) == "highest"
    return Precision(torch.float32, *(("ieee", "ieee") if exact else ("tf32x3", "tf32x3")))
