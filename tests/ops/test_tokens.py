"""Every layout gives the same canonical rows, and what does not fit is refused by name before anything runs."""

import numpy as np
import pytest
import torch

from gloria_ops import local_scores
from gloria_ops.tokens import canonical

REGIONS, WORDS = torch.randn(2, 6, 4), torch.randn(3, 5, 4)


def owned(side):
    """The rows of each item."""
    return [side.rows[start : start + length] for start, length in zip(side.starts, side.lengths, strict=True)]


def assert_same_items(side, expected):
    assert side.rows.is_contiguous()
    assert side.starts.dtype == side.lengths.dtype == torch.int64
    for rows, other in zip(owned(side), expected, strict=True):
        assert torch.equal(rows, other)


def test_padded_words_with_lengths():
    tensors = (torch.tensor([5, 1, 3]), torch.tensor([5, 1, 3], dtype=torch.int16))
    for lengths in ([5, 1, 3], (5, 1, 3), np.array([5, 1, 3]), *tensors):
        batch = canonical(REGIONS, WORDS, word_lengths=lengths)
        assert_same_items(batch.texts, [WORDS[0], WORDS[1, :1], WORDS[2, :3]])


def test_contiguous_padded_rows_are_not_copied():
    batch = canonical(REGIONS, WORDS, word_lengths=[5, 1, 3])
    assert batch.images.rows.data_ptr() == REGIONS.data_ptr()
    assert batch.texts.rows.data_ptr() == WORDS.data_ptr()


def test_packed_words():
    packed = torch.cat([WORDS[0], WORDS[1, :1], WORDS[2, :3]])
    for offsets in ([0, 5, 6, 9], torch.tensor([0, 5, 6, 9], dtype=torch.int32)):
        batch = canonical(REGIONS, packed, word_offsets=offsets)
        assert_same_items(batch.texts, [WORDS[0], WORDS[1, :1], WORDS[2, :3]])


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.uint8])
def test_a_mask_with_holes_keeps_the_order_of_words(dtype):
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 0, 0, 1], [0, 0, 1, 0, 0]]).to(dtype)
    batch = canonical(REGIONS, WORDS, word_mask=mask)
    assert_same_items(batch.texts, [WORDS[0], WORDS[1, [1, 4]], WORDS[2, [2]]])


def test_a_mask_of_padding_at_the_end_copies_nothing():
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 0, 0, 0], [1, 1, 1, 0, 0]])
    texts = canonical(REGIONS, WORDS, word_mask=mask).texts
    assert texts.rows.data_ptr() == WORDS.data_ptr()
    assert_same_items(texts, [WORDS[0], WORDS[1, :1], WORDS[2, :3]])


def test_region_lengths():
    batch = canonical(REGIONS, WORDS, region_lengths=[2, 6])
    assert_same_items(batch.images, [REGIONS[0, :2], REGIONS[1]])


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_feature_maps_are_read_in_reading_order(memory_format):
    maps = REGIONS.reshape(2, 2, 3, 4).permute(0, 3, 1, 2).contiguous(memory_format=memory_format)
    batch = canonical(maps, WORDS)
    assert batch.grid == (2, 3)
    assert_same_items(batch.images, list(REGIONS))


def test_channels_last_maps_are_not_copied():
    maps = torch.randn(2, 4, 2, 3).contiguous(memory_format=torch.channels_last)
    assert canonical(maps, WORDS).images.rows.data_ptr() == maps.data_ptr()


PACKED = torch.randn(9, 4)
MASK = torch.ones(3, 5, dtype=torch.bool)
HOLE = MASK.clone()
HOLE[1] = False

VALUES_REFUSED = {
    "rank of regions": (
        REGIONS[0],
        WORDS,
        {},
        r"regions has the shape \(6, 4\); expected \(N_v, M, D\), or feature maps",
    ),
    "rank of words": (
        REGIONS,
        WORDS[None],
        {},
        r"words has the shape \(1, 3, 5, 4\); expected \(N_t, W, D\), or packed",
    ),
    "width": (REGIONS, torch.randn(3, 5, 7), {}, r"regions are 4 wide and words 7 \(D\)"),
    "no images": (
        REGIONS[:0],
        WORDS,
        {},
        r"regions has the shape \(0, 6, 4\); expected \(N_v, M, D\) with every size at",
    ),
    "no texts": (REGIONS, WORDS[:0], {}, r"words has the shape \(0, 5, 4\); expected \(N_t, W, D\) with every size at"),
    "no regions": (REGIONS[:, :0], WORDS, {}, r"regions has the shape \(2, 0, 4\)"),
    "no words": (REGIONS, WORDS[:, :0], {}, r"words has the shape \(3, 0, 4\)"),
    "no width": (REGIONS[..., :0], WORDS[..., :0], {}, r"regions has the shape \(2, 6, 0\)"),
    "empty maps": (
        torch.randn(2, 4, 0, 3),
        WORDS,
        {},
        r"regions has the shape \(2, 4, 0, 3\); expected \(N_v, D, H, W\)",
    ),
    "empty text": (REGIONS, WORDS, {"word_lengths": [5, 0, 3]}, r"word_lengths\[1\] is 0; expected 1 to 5.*drop empty"),
    "negative": (REGIONS, WORDS, {"word_lengths": [5, 2, -3]}, r"word_lengths\[2\] is -3; expected 1 to 5"),
    "too long": (REGIONS, WORDS, {"word_lengths": torch.tensor([6, 2, 3])}, r"word_lengths\[0\] is 6; expected 1 to 5"),
    "too many regions": (REGIONS, WORDS, {"region_lengths": [6, 7]}, r"region_lengths\[1\] is 7; expected 1 to 6"),
    "count of lengths": (
        REGIONS,
        WORDS,
        {"word_lengths": [1, 2]},
        r"word_lengths has the shape \(2,\); expected \(3,\)",
    ),
    "rank of lengths": (
        REGIONS,
        WORDS,
        {"word_lengths": torch.ones(3, 1).long()},
        r"word_lengths has the shape \(3, 1\)",
    ),
    "empty mask row": (REGIONS, WORDS, {"word_mask": HOLE}, r"word_mask.sum\(1\)\[1\] is 0; expected 1 to 5"),
    "shape of mask": (
        REGIONS,
        WORDS,
        {"word_mask": MASK[:, :4]},
        r"word_mask has the shape \(3, 4\); expected .* \(3, 5\)",
    ),
    "two descriptions": (
        REGIONS,
        WORDS,
        {"word_mask": MASK, "word_lengths": [5, 5, 5]},
        "word_lengths and word_mask are all given, but each alone says where texts end; give one of them",
    ),
    "packed without offsets": (REGIONS, PACKED, {}, r"words has the shape \(9, 4\), packed, without word_offsets"),
    "packed with lengths": (REGIONS, PACKED, {"word_lengths": [9]}, r"packed, without word_offsets; give word_offsets"),
    "padded with offsets": (
        REGIONS,
        WORDS,
        {"word_offsets": [0, 5]},
        r"word_offsets is given with padded words \(3, 5, 4\)",
    ),
    "offsets fall": (
        REGIONS,
        PACKED,
        {"word_offsets": [0, 5, 4, 9]},
        r"does not rise from item 1 \(5\) to item 2 \(4\)",
    ),
    "offsets rest": (REGIONS, PACKED, {"word_offsets": [0, 5, 5, 9]}, "does not rise from item 1.*drop empty texts"),
    "offsets begin": (REGIONS, PACKED, {"word_offsets": [1, 5, 9]}, "word_offsets goes from 1 to 9; expected 0 to 9"),
    "offsets end": (REGIONS, PACKED, {"word_offsets": [0, 5, 8]}, "word_offsets goes from 0 to 8; expected 0 to 9"),
    "one offset": (
        REGIONS,
        PACKED,
        {"word_offsets": [0]},
        r"word_offsets has the shape \(1,\); expected \(N_t \+ 1,\)",
    ),
    "maps with lengths": (
        torch.randn(2, 4, 2, 3),
        WORDS,
        {"region_lengths": [6, 6]},
        r"region_lengths is given with feature maps \(2, 4, 2, 3\), whose regions are all real; leave it out",
    ),
    "devices": (REGIONS, WORDS.to("meta"), {}, "regions are on cpu and words on meta; expected one device"),
    "device of lengths": (
        REGIONS,
        WORDS,
        {"word_lengths": torch.ones(3, dtype=torch.int64, device="meta")},
        "word_lengths is on meta and the rows on cpu; expected one device, or word_lengths on the CPU",
    ),
}

TYPES_REFUSED = {
    "array": (REGIONS.numpy(), WORDS, {}, r"regions is a ndarray; expected a tensor: torch.as_tensor\(regions\)"),
    "integers": (REGIONS, WORDS.long(), {}, "words is torch.int64; expected float16, bfloat16, float32 or float64"),
    "two dtypes": (
        REGIONS,
        WORDS.bfloat16(),
        {},
        "regions are torch.float32 and words torch.bfloat16; expected one dtype",
    ),
    "float lengths": (
        REGIONS,
        WORDS,
        {"word_lengths": torch.ones(3)},
        "word_lengths is torch.float32; expected integers",
    ),
    "float in a list": (
        REGIONS,
        WORDS,
        {"word_lengths": [1, 2.0, 3]},
        r"word_lengths is \[1, 2.0, 3\]; expected integers",
    ),
    "one number": (REGIONS, WORDS, {"word_lengths": 5}, "word_lengths is 5; expected integers, in a list or a tensor"),
    "bools in a list": (
        REGIONS,
        WORDS,
        {"word_lengths": [True] * 3},
        r"word_lengths is \[True, True, True\]; ",
    ),
    "bool lengths": (REGIONS, WORDS, {"region_lengths": torch.ones(2).bool()}, "region_lengths is torch.bool"),
    "float mask": (
        REGIONS,
        WORDS,
        {"word_mask": MASK.float()},
        "word_mask is torch.float32; expected a bool or integer",
    ),
    "mask as list": (REGIONS, WORDS, {"word_mask": [[1]]}, "word_mask is list; expected a bool or integer tensor"),
}


@pytest.mark.parametrize(
    ("regions", "words", "described", "message"), VALUES_REFUSED.values(), ids=VALUES_REFUSED.keys()
)
def test_values_refused(regions, words, described, message):
    with pytest.raises(ValueError, match=message):
        local_scores(regions, words, **described)


@pytest.mark.parametrize(("regions", "words", "described", "message"), TYPES_REFUSED.values(), ids=TYPES_REFUSED.keys())
def test_types_refused(regions, words, described, message):
    with pytest.raises(TypeError, match=message):
        local_scores(regions, words, **described)
