"""A plain product of two matrices, a block of it, read through pointers or through tensor descriptors."""

# mypy: disable-error-code="no-untyped-def"
# Triton reads the annotations of kernels, and knows constexpr only.

from typing import Any

import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from gloria_ops.backends.triton.block_sizes import Blocks
from gloria_ops.backends.triton.device import dot


@triton.jit
def block_of_product(
    left, tail, right, row, column, first, end, right_offset, rows_end, columns, left_stride, right_stride,
    LEFT_BY_K: tl.constexpr, RIGHT_BY_K: tl.constexpr, DESCRIBED: tl.constexpr,
    M: tl.constexpr, TAIL: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """(M, N) rows from `row` on and (TAIL, N) rows behind them, of left @ right, summed over [first, end).

    Operands lie row by row with the inner dimension last, or, BY_K, first; that of `right` begins at right_offset.
    DESCRIBED: they are tensor descriptors, `left` and `tail` the same matrix in blocks of M and TAIL rows, and what
    lies beyond them is zero. Else they are pointers, TAIL is 0, and rows from `rows_end` and columns from `columns` on
    are whatever is cheap to read.
    """
    LOWER: tl.constexpr = TAIL if TAIL else 16
    upper = tl.zeros((M, N), tl.float32)
    lower = tl.zeros((LOWER, N), tl.float32)
    if DESCRIBED:
        for k in range(first, end, K):
            inner = k + right_offset
            b = right.load([inner, column]) if RIGHT_BY_K else right.load([column, inner]).T
            a = left.load([k, row]).T if LEFT_BY_K else left.load([row, k])
            upper = dot(a, b, upper, PRECISION, UPCAST)
            if TAIL:
                a = tail.load([k, row + M]).T if LEFT_BY_K else tail.load([row + M, k])
                lower = dot(a, b, lower, PRECISION, UPCAST)
    else:
        rows, others, k = tl.arange(0, M), column + tl.arange(0, N), tl.arange(0, K)
        if LEFT_BY_K:
            a = left + tl.cast(first, tl.int64) * left_stride + k[None, :] * left_stride + (row + rows)[:, None]
        else:
            # A mask would cost registers in the loop.
            a = left + tl.cast(row, tl.int64) * left_stride + first
            a += tl.minimum(rows, rows_end - 1 - row)[:, None] * left_stride + k[None, :]
        if RIGHT_BY_K:
            b = right + tl.cast(right_offset + first, tl.int64) * right_stride
            b += k[:, None] * right_stride + others[None, :]
        else:
            b = right + right_offset + first + tl.minimum(others, columns - 1)[None, :] * right_stride + k[:, None]
        for _ in range(first, end, K):
            if LEFT_BY_K:
                of_left = tl.load(a, mask=(row + rows < rows_end)[:, None], other=0.0)
                a += K * left_stride
            else:
                of_left = tl.load(a)
                a += K
            if RIGHT_BY_K:
                of_right = tl.load(b, mask=(others < columns)[None, :], other=0.0)
                b += K * right_stride
            else:
                of_right = tl.load(b)
                b += K
            upper = dot(of_left, of_right, upper, PRECISION, UPCAST)
    return upper, lower


def operands(
    blocks: Blocks, left: Tensor, right: Tensor, left_by_k: bool = False, right_by_k: bool = False
) -> dict[str, Any]:
    """What `block_of_product` takes of two matrices and of the blocks."""
    matrices = {"left": left, "tail": left, "right": right}
    if blocks.described:
        matrices["left"] = _described(left, blocks.main, blocks.step, left_by_k)
        matrices["tail"] = _described(left, blocks.tail or blocks.main, blocks.step, left_by_k)
        matrices["right"] = _described(right, blocks.columns, blocks.step, right_by_k)
    return matrices | {"DESCRIBED": blocks.described, "TAIL": blocks.tail}


def _described(matrix: Tensor, rows: int, step: int, by_k: bool) -> TensorDescriptor:
    block = [step, rows] if by_k else [rows, step]
    return TensorDescriptor(matrix, list(matrix.shape), list(matrix.stride()), block)
