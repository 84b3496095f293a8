"""Reads lookup tables of a data set: for the modality, for the values of interest, and for palette colors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydicom import Dataset


@dataclass(frozen=True)
class Table:
    """Maps values from `first` on to entries; values before and after get the first and the last entry.

    pydicom looks values up too, but in integers of the size of entries or pixels. There a table of more than 256
    entries of 8 bits, or one that starts outside the pixels' range, wraps around.

    Attributes:
        entries: (N,) uint16.
        first: value of the first entry.
        bits: bits of each entry.
    """

    entries: np.ndarray
    first: int
    bits: int

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Return the entries of values of any shape and real dtype, rounded to the nearest integer."""
        nearest = np.rint(values) if values.dtype.kind == "f" else values.astype(np.int64)
        # Explicit files may declare a negative first value as unsigned, since their pixels are unsigned.
        first = self.first - 65536 if self.first > 32767 and nearest.min() < 0 else self.first
        return self.entries[np.clip(nearest - first, 0, len(self.entries) - 1).astype(np.int64)]


def read_table(data: Dataset, descriptor: Any, entries: Any) -> Table:
    """Make a table from its descriptor (number of entries, first value, bits) and its data, which are words or bytes.

    A wrong number of bits is corrected: some files declare tables of 12 bits as 16, and tables of 16 bits as 8.

    Args:
        data: data set whose transfer syntax gives the byte order.
        descriptor: value of the descriptor element.
        entries: value of the data element.

    Raises:
        ValueError: a descriptor that is not three numbers, or fewer entries than it says.
    """
    try:
        count, first, bits = (int(each) for each in descriptor)
    except (TypeError, ValueError) as error:
        raise ValueError(f"its descriptor is {descriptor}; expected three numbers") from error
    if entries is None:
        raise ValueError("it has no data")
    count = count % 65536 or 65536
    if isinstance(entries, (bytes, bytearray)):
        order = "<" if data.file_meta.TransferSyntaxUID.is_little_endian else ">"
        words = len(entries) >= 2 * count
        values = np.frombuffer(entries[: len(entries) // 2 * 2] if words else entries, f"{order}u2" if words else "u1")
    else:
        values = np.asarray(entries if isinstance(entries, Sequence) else [entries]) % 65536
    if len(values) < count:
        raise ValueError(f"its data hold fewer entries than its descriptor says, {count}")
    values = values[:count].astype(np.uint16)
    holding = int(values.max()).bit_length()
    # With one unused bit a table is only dark; with two, its depth is a smaller one.
    if not holding <= bits <= 16 or holding < bits - 1:
        bits = next(depth for depth in (8, 10, 12, 14, 16) if holding <= depth)
    return Table(values, first, bits)
