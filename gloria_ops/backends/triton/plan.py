"""The plan of a batch, made on the device: which packed rows the words of a text get, and which texts share a chunk.

Lengths are never read by the host, so nothing waits for the device and a captured graph serves other lengths.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton reads the annotations of kernels, and knows constexpr only.

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from gloria_ops.tokens import Ragged

# A chunk holds every word of the texts that begin in it, so that its end hangs over by less than the longest text.
LONGEST_TEXT = 2048
# A text counts as at least so many words, which bounds the texts of a chunk.
LEAST_WORDS = 8


class Plan(NamedTuple):
    """Where the words lie, packed text after text.

    dense_starts: (N_t + 1,) int32, the packed row of each text's first word; the last: the number of packed rows.
    first_texts: (chunks + 1,) int32, the first text that begins in each chunk; the last: N_t.
    chunks: how many there are at most.
    capacity: rows that the texts of a chunk take at most.
    texts_at_once: texts of a chunk at most.
    """

    dense_starts: Tensor
    first_texts: Tensor
    chunks: int
    capacity: int
    texts_at_once: int


@triton.jit(do_not_specialize=["texts", "chunks", "chunk_words"])
def plan_kernel(
    lengths,
    dense_starts,
    first_texts,
    texts,
    chunks,
    chunk_words,
    LONGEST: tl.constexpr,
    LEAST: tl.constexpr,
    TEXTS: tl.constexpr,
    CHUNKS: tl.constexpr,
):
    """One program: CHUNKS entries of first_texts; the first one writes dense_starts as well.

    Every program adds up all lengths by itself, so none waits for another and no two write to one address.
    """
    chunk = tl.program_id(0) * CHUNKS + tl.arange(0, CHUNKS)
    first_text = tl.zeros((CHUNKS,), tl.int32)
    rows = 0
    places = 0
    for first in range(0, texts, TEXTS):
        text = first + tl.arange(0, TEXTS)
        length = tl.load(lengths + text, mask=text < texts, other=0).to(tl.int32)
        # A text that is too long takes no row; its scores are NaN.
        length = tl.where(length > LONGEST, 0, length)
        counted = tl.where(text < texts, tl.maximum(length, LEAST), 0)
        place = places + tl.cumsum(counted, 0) - counted
        before = (place[None, :] < (chunk * chunk_words)[:, None]) & (text < texts)[None, :]
        first_text += tl.sum(before.to(tl.int32), 1)
        if tl.program_id(0) == 0:
            tl.store(dense_starts + text, rows + tl.cumsum(length, 0) - length, mask=text < texts)
        rows += tl.sum(length, 0)
        places += tl.sum(counted, 0)
    # The last chunk takes all that is left.
    tl.store(first_texts + chunk, tl.where(chunk == chunks, texts, first_text), mask=chunk <= chunks)
    if tl.program_id(0) == 0:
        tl.store(dense_starts + texts, rows)


def plan(texts: Ragged, chunk_words: int | None) -> Plan:
    """The plan of texts in chunks of about `chunk_words` words; None: all in one."""
    count, rows = texts.starts.numel(), texts.rows.shape[0]
    places = rows + (LEAST_WORDS - 1) * count
    if chunk_words is None or places <= chunk_words + LONGEST_TEXT:
        chunks, capacity, texts_at_once, chunk_words = 1, rows, count, places
    else:
        chunks = triton.cdiv(places, chunk_words)
        capacity = min(rows, chunk_words + LONGEST_TEXT)
        texts_at_once = min(count, chunk_words // LEAST_WORDS + 1)
    dense_starts, first_texts = (
        torch.empty(size + 1, dtype=torch.int32, device=texts.rows.device) for size in (count, chunks)
    )
    block = 32
    plan_kernel[(triton.cdiv(chunks + 1, block),)](
        lengths=texts.lengths,
        dense_starts=dense_starts,
        first_texts=first_texts,
        texts=count,
        chunks=chunks,
        chunk_words=chunk_words,
        LONGEST=LONGEST_TEXT,
        LEAST=LEAST_WORDS,
        TEXTS=256,
        CHUNKS=block,
    )
    return Plan(dense_starts, first_texts, chunks, capacity, texts_at_once)
