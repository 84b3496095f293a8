"""Image files as they are: 16 bits in gray and color, alpha, white as zero, either order of bytes, several frames."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from gloria.images import to_rgb

RAMP = np.tile(np.linspace(0, 4095, 16).astype(np.uint16), (16, 1))  # 12 bits, in 16
SHOWN = np.rint(RAMP * (255 / 4095)).astype(int)
COLORS = np.random.default_rng(0).integers(0, 65536, (16, 16, 3)).astype(np.uint16)
COLORS[0, 0] = 65535
OPAQUE = np.full((16, 16, 1), 65535, np.uint16)
GRAY_PNG, RGB_PNG, GRAY_ALPHA_PNG, RGBA_PNG = 0, 2, 4, 6  # color types


def png(values, kind, *chunks, interlaced=False):
    """A PNG of 16 bits a channel; rows are filtered, so that decoding depends on the size of a pixel."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    def rows(part):
        wide = part.reshape(len(part), part.shape[1], -1).astype(">u2")
        step = 2 * wide.shape[2]
        for row in wide:
            line = np.frombuffer(row.tobytes(), np.uint8)
            yield b"\1" + (line - np.concatenate([np.zeros(step, np.uint8), line[:-step]])).tobytes()  # filter "sub"

    adam7 = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    passes = [values[y::down, x::right] for y, x, down, right in adam7] if interlaced else [values]
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, kind, 0, 0, int(interlaced))
    data = b"".join(row for part in passes for row in rows(part))
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def tiff(values, photometric, order="<", bits=16, kind=1, extra=None, planes=1, strip=5, compressed=False):
    """A TIFF in strips of some rows; `kind` is the sample format: 1 unsigned, 2 signed, 3 float."""
    height, width = values.shape[:2]
    samples = 1 if values.ndim == 2 else values.shape[2]
    data = values.astype(values.dtype.newbyteorder(order))
    parts = [data] if samples == 1 or planes == 1 else [data[..., sample] for sample in range(samples)]
    strips = [part[start : start + strip].tobytes() for part in parts for start in range(0, height, strip)]
    if compressed:
        strips = [zlib.compress(each) for each in strips]
    entries = [
        (256, 3, [width]),
        (257, 3, [height]),
        (258, 3, [bits] * samples),
        (259, 3, [8 if compressed else 1]),
        (262, 3, [photometric]),
    ]
    entries += [(273, 4, [0] * len(strips)), (277, 3, [samples]), (278, 3, [strip])]
    entries += [(279, 4, [len(each) for each in strips]), (284, 3, [planes])]
    entries += [] if extra is None else [(338, 3, [extra])]
    entries += [(339, 3, [kind] * samples)]
    end = 8 + 2 + 12 * len(entries) + 4
    room = sum(len(numbers) * 4 for _, _, numbers in entries)
    offsets = np.cumsum([end + room, *[len(each) for each in strips[:-1]]]).tolist()
    table, beyond = b"", b""
    for tag, form, numbers in entries:
        packed = struct.pack(f"{order}{len(numbers)}{'H' if form == 3 else 'I'}", *(offsets if tag == 273 else numbers))
        table += struct.pack(f"{order}HHI", tag, form, len(numbers))
        table += packed.ljust(4, b"\0") if len(packed) <= 4 else struct.pack(f"{order}I", end + len(beyond))
        beyond += packed if len(packed) > 4 else b""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(entries)) + table + bytes(4)
    return head + beyond.ljust(room, b"\0") + b"".join(strips)


def levels(file):
    return np.asarray(to_rgb(io.BytesIO(file))).astype(int)


def stacked(*channels):
    return np.concatenate([each.reshape(16, 16, -1) for each in channels], axis=2)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (RAMP, GRAY_PNG),
        (stacked(RAMP, RAMP, RAMP), RGB_PNG),
        (stacked(RAMP, OPAQUE), GRAY_ALPHA_PNG),
        (stacked(RAMP, RAMP, RAMP, OPAQUE), RGBA_PNG),
        (stacked(RAMP, RAMP, RAMP, OPAQUE // 16), RGBA_PNG),  # opaque by 12 bits
    ],
)
def test_png_of_16_bits_keeps_its_depth_in_every_color_type(values, kind, interlaced):
    assert np.array_equal(levels(png(values, kind, interlaced=interlaced)), np.repeat(SHOWN[..., None], 3, 2))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("extra", [None, 0, 1, 2])
def test_tiff_of_16_bit_colors_keeps_its_depth(order, extra):
    values = stacked(RAMP, RAMP // 2, RAMP) if extra is None else stacked(RAMP, RAMP // 2, RAMP, OPAQUE)
    expected = np.rint(values[..., :3] * (255 / 4095))
    assert np.array_equal(levels(tiff(values, 2, order, extra=extra)), expected)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_all_colors_of_16_bits_are_scaled(order, compressed):
    expected = np.rint(COLORS * (255 / 65535))
    assert np.array_equal(levels(png(COLORS, RGB_PNG)), expected)
    assert np.array_equal(levels(tiff(COLORS, 2, order, compressed=compressed)), expected)
    assert np.array_equal(levels(tiff(RAMP, 0, order, compressed=compressed))[..., 0], 255 - SHOWN)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("values", "bits", "kind"),
    [
        (RAMP, 16, 1),
        (RAMP.astype(np.int16), 16, 2),
        (RAMP.astype(np.int32), 32, 2),
        ((RAMP / 4095).astype(np.float32), 32, 3),
    ],
)
def test_white_is_zero_is_the_negative(values, bits, kind, order):
    straight = levels(tiff(values, 1, order, bits, kind))[..., 0]
    assert np.abs(straight - SHOWN).max() <= 1
    assert np.array_equal(levels(tiff(values, 0, order, bits, kind))[..., 0], 255 - straight)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("order", ["<", ">"])
def test_gray_may_be_declared_as_of_separate_planes(order, photometric, compressed):
    for values, bits in ((RAMP, 16), (SHOWN.astype(np.uint8), 8)):
        file = tiff(values, photometric, order, bits, planes=2, compressed=compressed)
        assert np.array_equal(levels(file)[..., 0], SHOWN if photometric else 255 - SHOWN)


def test_transparency_is_laid_on_black_at_16_bits():
    half = stacked(RAMP, RAMP, RAMP, OPAQUE // 2)
    half[0, 0, 3] = 65535
    shown = levels(png(half, RGBA_PNG))[..., 0]
    assert np.abs(shown[1:] - SHOWN[1:] / 2).max() <= 1
    value = int(RAMP[0, 8])
    for file in (
        png(RAMP, GRAY_PNG, (b"tRNS", struct.pack(">H", value))),
        png(stacked(RAMP, RAMP, RAMP), RGB_PNG, (b"tRNS", struct.pack(">HHH", value, value, value))),
    ):
        shown = levels(file)[..., 0]
        assert shown[:, 8].max() == 0
        assert np.array_equal(np.delete(shown, 8, 1), np.delete(SHOWN, 8, 1))
    multiplied = stacked(RAMP // 2, RAMP // 2, RAMP // 2, OPAQUE // 2)
    shown = levels(tiff(multiplied, 2, extra=1))[..., 0]
    assert np.array_equal(shown, np.rint((RAMP // 2) * (255 / 4095)))


@pytest.mark.parametrize("extra", [0, 1, 2])
def test_gray_with_alpha_of_8_bits(extra):
    """Ignored, multiplied already, to be multiplied."""
    gray, alpha = SHOWN.astype(np.uint8), np.full((16, 16), 128, np.uint8)
    values = stacked(gray // 2 if extra == 1 else gray, alpha)
    shown = levels(tiff(values, 1, bits=8, extra=extra))[..., 0]
    assert np.abs(shown - (SHOWN if extra == 0 else SHOWN / 2)).max() <= 2


def test_gray_with_alpha_of_16_bits_in_tiff_is_refused():
    with pytest.raises(ValueError, match="cannot be read as an image"):
        levels(tiff(stacked(RAMP, OPAQUE), 1, extra=2))


def test_arrays_scale_alpha_apart():
    for dtype in (np.uint16, np.int32, np.float64):
        array = stacked(RAMP, RAMP, RAMP, OPAQUE).astype(dtype)
        assert np.array_equal(np.asarray(to_rgb(array))[..., 0], SHOWN)


def test_exif_rotation_is_applied_to_deep_colors():
    exif = Image.Exif()
    exif[0x0112] = 6
    file = png(stacked(RAMP, RAMP, RAMP), RGB_PNG, (b"eXIf", exif.tobytes()[6:]))
    assert np.array_equal(levels(file)[..., 0], np.rot90(SHOWN, -1))


def test_deep_colors_in_separate_planes_are_refused(tmp_path):
    (tmp_path / "planes.tif").write_bytes(tiff(COLORS, 2, planes=2))
    with pytest.raises(ValueError, match=r"planes\.tif holds 16-bit colors in separate planes; save it with one plane"):
        to_rgb(tmp_path / "planes.tif")


def test_a_cut_off_file_of_deep_colors_is_named(tmp_path):
    (tmp_path / "cut.png").write_bytes(png(COLORS, RGB_PNG)[:900])
    with pytest.raises(ValueError, match=r"cut\.png cannot be read as an image"):
        to_rgb(tmp_path / "cut.png")


def test_an_opened_image_keeps_its_depth_and_stays_open():
    image = Image.open(io.BytesIO(png(COLORS, RGB_PNG)))
    first = np.asarray(to_rgb(image))
    assert np.array_equal(first, np.rint(COLORS * (255 / 65535)))
    assert np.array_equal(np.asarray(to_rgb(image)), first)
    assert np.array_equal(np.asarray(image), COLORS >> 8)  # Pillow's own view is untouched


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PNG", "WEBP"])
def test_several_frames_or_pages_are_refused_whatever_the_format(tmp_path, kind):
    pages = [Image.fromarray((SHOWN + shift).clip(0, 255).astype(np.uint8)) for shift in (0, 50, 90)]
    path = tmp_path / f"many.{kind.lower()}"
    pages[0].save(path, kind, save_all=True, append_images=pages[1:])
    for image in (path, Image.open(path)):
        with pytest.raises(ValueError, match=rf"many\.{kind.lower()} has 3 frames or pages; save the one to use as a"):
            to_rgb(image)
    pages[0].save(path, kind, save_all=True)
    assert to_rgb(path).size == (16, 16)
    with Image.open(path) as image:
        image.load()
        assert to_rgb(image).size == (16, 16)


def test_pictures_attached_to_a_jpeg_do_not_matter(tmp_path):
    pages = [Image.fromarray((SHOWN + shift).clip(0, 255).astype(np.uint8)) for shift in (0, 90)]
    pages[0].save(tmp_path / "two.jpg", "MPO", save_all=True, append_images=pages[1:], quality=95)
    assert np.abs(np.asarray(to_rgb(tmp_path / "two.jpg"))[..., 0].astype(int) - SHOWN).max() < 8
