"""Which words share a tile: texts brought together into tiles of C columns, planned on the device without a sync.

Two plans. `dense` ignores where texts end: every column is a word. `slotted` gives each text whole slots of C / 8 words
within one tile, so that a kernel sums over the words of a text inside its block; a text longer than a tile gets a run
of tiles for itself. Nothing here reads a length on the host, so all sizes are bounds taken from the shapes, and kernels
stop at the number of tiles that the device counted.
"""

from functools import lru_cache
from typing import NamedTuple

# mypy: disable-error-code="no-untyped-def"
# Triton reads the annotations of kernels, and knows constexpr only.
import torch
import triton
import triton.language as tl
from torch import Tensor

SLOTS = 8
# Tiles of the longest run; a longer text scores NaN. Backward works through as many tiles at a time, which never cuts a
# run: runs are powers of two, and the longest come first.
LONGEST_RUN = 32


class Plan(NamedTuple):
    """Columns of every tile.

    rows: (T, C) int32, the row of `words` in each column, -1 = none.
    texts: (T, SLOTS) int32, the text of each slot, -1 = none; zeros in a dense plan, which has no slots.
    spans: (T,) int32, at the first tile of a text or group of texts the number of tiles that it fills, 0 elsewhere.
    in_use: (1,) int32, how many are in use: those before it.
    """

    rows: Tensor
    texts: Tensor
    spans: Tensor
    in_use: Tensor


def dense(starts: Tensor, lengths: Tensor, width: int, columns: int) -> Plan:
    """Words side by side, text after text; `width` = rows of words, the bound of their number."""
    tiles = triton.cdiv(width, columns)
    ends = lengths.cumsum(0)
    position = torch.arange(tiles * columns, device=starts.device)
    text = torch.searchsorted(ends, position, right=True)
    real = text < ends.numel()
    text = text.clamp(max=ends.numel() - 1)
    rows = torch.where(real, starts[text] + position - (ends - lengths)[text], -1).view(tiles, columns)
    count = (ends[-1:] + columns - 1) // columns
    spans = (torch.arange(tiles, device=starts.device) < count).int()
    texts = torch.zeros(tiles, SLOTS, dtype=torch.int32, device=starts.device)
    return Plan(rows.int(), texts, spans, count.int())


def slotted(starts: Tensor, lengths: Tensor, width: int, columns: int) -> Plan:
    """Texts in whole slots: long ones first, in runs of tiles; then the others, fullest tiles first."""
    device, slot = starts.device, columns // SLOTS
    ways = _ways(device)
    # Powers of two, by comparison with each: a logarithm in floating point may miss by one.
    powers = 2 ** torch.arange(LONGEST_RUN.bit_length(), device=device)
    run = torch.searchsorted(powers, (lengths + columns - 1) // columns).clamp(max=powers.numel() - 1)
    long = lengths > columns
    kind = torch.where(long, SLOTS + run, (lengths + slot - 1) // slot)
    order = torch.argsort(kind, descending=True, stable=True)
    by_kind = (kind[:, None] == torch.arange(1, SLOTS + 1, device=device)).sum(0).int()
    used = torch.empty(ways.parts.shape[0], SLOTS, dtype=torch.int32, device=device)
    tiles_of_way = torch.empty(ways.parts.shape[0], dtype=torch.int32, device=device)
    _share_kernel[(1,)](ways.parts, by_kind, tiles_of_way, used, ways.parts.shape[0], SLOTS=SLOTS)

    runs = torch.where(long, powers[run], 0)[order]
    run_ends = runs.cumsum(0)
    long_tiles = run_ends[-1]
    tile = torch.arange(bound(starts.numel(), width, columns), device=device)
    in_run = tile < long_tiles
    nth = torch.searchsorted(run_ends, tile, right=True).clamp(max=starts.numel() - 1)
    run_start = (run_ends - runs)[nth]

    way_ends = tiles_of_way.cumsum(0)
    in_way = tile - long_tiles
    way = torch.searchsorted(way_ends, in_way, right=True)
    in_use = in_run | ((in_way >= 0) & (way < way_ends.numel()))
    way = way.clamp(max=way_ends.numel() - 1)
    # Texts of one kind stand together in `order`, the largest kind first.
    first_of_kind = long.sum() + by_kind.flip(0).cumsum(0).flip(0) - by_kind
    part = ways.part_of_slot[way]
    nth_of_kind = (
        used[way].gather(1, part)
        + (in_way - (way_ends - tiles_of_way)[way])[:, None] * ways.parts[way].gather(1, part)
        + ways.copy_of_slot[way]
    )
    shared = first_of_kind[part] + nth_of_kind
    nth_text = torch.where(in_run[:, None], nth[:, None], shared).clamp(0, starts.numel() - 1)
    slot_in_run = (tile - run_start)[:, None] * SLOTS + torch.arange(SLOTS, device=device)
    slot_in_text = torch.where(in_run[:, None], slot_in_run, ways.slot_in_part[way])
    filled = in_use[:, None] & (in_run[:, None] | ways.filled[way])

    text = order[nth_text]
    word = slot_in_text[:, :, None] * slot + torch.arange(slot, device=device)
    real = filled[:, :, None] & (word < lengths[text][:, :, None])
    rows = torch.where(real, starts[text][:, :, None] + word, -1).flatten(1)
    spans = torch.where(in_run, torch.where(tile == run_start, runs[nth], 0), in_use)
    count = (long_tiles + way_ends[-1]).view(1)
    return Plan(rows.int(), torch.where(real[:, :, 0], text, -1).int(), spans.int(), count.int())


def bound(texts: int, width: int, columns: int) -> int:
    """Tiles that a slotted plan of `texts` texts with `width` words in all can need."""
    # A text of n > C words fills 2^ceil(log2 c) <= 2 (c - 1) < 2 n / C tiles, with c = ceil(n / C). Others: two tiles
    # never have SLOTS slots or fewer in use together, or an earlier way would have joined them; so there are at most
    # 2 / (SLOTS + 1) of their slots, of which a text of n words has at most (n - 1) SLOTS / C + 1.
    tiles = 1 + 2 * texts // (SLOTS + 1) + 1 + 2 * width // columns
    return triton.cdiv(tiles, LONGEST_RUN) * LONGEST_RUN


class Ways(NamedTuple):
    """The ways to fill a tile with texts of 1 to SLOTS slots, those that fill it best first.

    parts: (P, SLOTS) int32, texts of 1, 2, ... slots. The rest (P, SLOTS), of each slot of such a tile: which kind of
    text it belongs to (0 = of one slot), the how manieth of them, its place in the text, and whether it is used at all.
    """

    parts: Tensor
    part_of_slot: Tensor
    copy_of_slot: Tensor
    slot_in_part: Tensor
    filled: Tensor


@lru_cache(maxsize=16)
def _ways(device: torch.device) -> Ways:
    partitions = [each for total in range(SLOTS, 0, -1) for each in _partitions(total, total)]
    parts: list[list[int]] = []
    kinds: list[list[int]] = []
    copies: list[list[int]] = []
    places: list[list[int]] = []
    filled: list[list[bool]] = []
    for partition in partitions:
        slots = [
            (size - 1, partition[:nth].count(size), place)
            for nth, size in enumerate(partition)
            for place in range(size)
        ]
        empty = SLOTS - len(slots)
        parts.append([partition.count(size) for size in range(1, SLOTS + 1)])
        for column, values in zip((kinds, copies, places), zip(*slots, strict=True), strict=True):
            column.append([*values, *[0] * empty])
        filled.append([True] * len(slots) + [False] * empty)
    return Ways(
        torch.tensor(parts, dtype=torch.int32, device=device),
        torch.tensor(kinds, device=device),
        torch.tensor(copies, device=device),
        torch.tensor(places, device=device),
        torch.tensor(filled, device=device),
    )


def _partitions(total: int, largest: int) -> list[tuple[int, ...]]:
    """The ways to write `total` as a sum of parts up to `largest`, those with the largest parts first."""
    if total == 0:
        return [()]
    return [(part, *rest) for part in range(min(total, largest), 0, -1) for rest in _partitions(total - part, part)]


@triton.jit(do_not_specialize=["ways"])
def _share_kernel(parts, by_kind, tiles_of_way, used, ways, SLOTS: tl.constexpr):
    """Tiles filled in each way: as many as the texts that are left allow, one way after the other."""
    kind = tl.arange(0, SLOTS)
    left = tl.load(by_kind + kind)
    taken = tl.zeros_like(left)
    for way in range(ways):
        needs = tl.load(parts + way * SLOTS + kind)
        tiles = tl.min(tl.where(needs > 0, left // tl.maximum(needs, 1), 2147483647), 0)
        tl.store(tiles_of_way + way, tiles)
        tl.store(used + way * SLOTS + kind, taken)
        left -= tiles * needs
        taken += tiles * needs
