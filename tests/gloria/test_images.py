"""GloriaImageProcessor: every mode, depth and shape shows the same picture, and what cannot be read is named."""

import numpy as np
import pytest
import torch
from PIL import Image

from gloria import GloriaImageProcessor
from gloria.images import to_rgb

GRAY = np.random.default_rng(0).integers(0, 256, (40, 31), dtype=np.uint8)
GRAY[0, 0] = 255  # so that deeper copies use the whole of their depth


def same_picture(image, tolerance=0):
    rgb = to_rgb(image)
    assert rgb.mode == "RGB"
    difference = np.asarray(rgb).astype(int) - GRAY[:, :, None]
    assert np.abs(difference).max() <= tolerance


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(GRAY),
        Image.fromarray(GRAY).convert("RGB"),
        Image.fromarray(GRAY).convert("RGBA"),
        Image.fromarray(GRAY).convert("LA"),
        Image.fromarray(GRAY).convert("P"),
        Image.fromarray(GRAY).convert("RGB").convert("CMYK"),
        Image.fromarray(GRAY.astype(np.uint16) * 257),
        Image.fromarray(GRAY.astype(np.int32) * 257),
        Image.fromarray((GRAY / np.float32(255)).astype(np.float32)),
        GRAY,
        GRAY[None],
        GRAY[:, :, None],
        np.stack([GRAY] * 3),
        np.stack([GRAY] * 3, -1),
        np.stack([*[GRAY] * 3, np.full_like(GRAY, 255)], -1),
        GRAY.astype(np.int64),
        GRAY.astype(">u2"),
        GRAY / 255,
        torch.from_numpy(GRAY)[None],
    ],
    ids=lambda image: f"{getattr(image, 'dtype', None) or image.mode}{getattr(image, 'shape', '')}",
)
def test_every_form_is_the_same_picture(image):
    same_picture(image)


@pytest.mark.parametrize("depth", [10, 12, 14, 16])
def test_deep_gray_is_scaled_by_its_depth_and_not_clipped(tmp_path, depth):
    deep = np.rint(GRAY.astype(float) * (2**depth - 1) / 255).astype(np.uint16)
    path = tmp_path / "deep.png"
    Image.fromarray(deep).save(path)
    same_picture(path)


def test_a_black_and_white_image_is_black_and_white():
    bits = GRAY > 127
    assert np.array_equal(np.asarray(to_rgb(Image.fromarray(bits)))[..., 0], bits * 255)
    assert np.array_equal(np.asarray(to_rgb(bits))[..., 0], bits * 255)


def test_raw_values_are_stretched_from_minimum_to_maximum():
    rgb = np.asarray(to_rgb(np.array([[-1000.0, 0.0], [1000.0, 3000.0]])))
    assert rgb[..., 0].tolist() == [[0, 64], [128, 255]]
    assert np.asarray(to_rgb(np.full((2, 2), -5.0))).max() == 0
    assert np.asarray(to_rgb(np.array([[-5e-324, 0.0]]))).max() == 0


@pytest.mark.parametrize(
    "dtype", [np.int8, np.int16, np.int32, np.int64, np.uint32, np.float16, np.float32, np.float64]
)
def test_the_whole_range_of_a_type_is_stretched(dtype):
    info = np.finfo(dtype) if np.issubdtype(dtype, np.floating) else np.iinfo(dtype)
    rgb = np.asarray(to_rgb(np.array([[info.min, info.max]], dtype)))
    assert rgb[..., 0].tolist() == [[0, 255]]


def test_transparency_is_laid_on_black():
    image = Image.new("RGBA", (2, 1), (200, 200, 200, 255))
    image.putpixel((1, 0), (200, 200, 200, 0))
    assert np.asarray(to_rgb(image)).tolist() == [[[200] * 3, [0] * 3]]


def test_exif_rotation_is_applied(tmp_path):
    image = Image.new("RGB", (20, 10))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert to_rgb(tmp_path / "turned.jpg").size == (10, 20)


def test_framing_keeps_the_middle_of_the_padded_square():
    """A wide white image: bands of padding above and below, white in between, the sides cropped away."""
    processor = GloriaImageProcessor(size=64, crop_size=56)
    pixels = processor(np.full((16, 32), 255, np.uint8), return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 56, 56)
    assert pixels.dtype == torch.float32
    assert pixels[0, :, 12:44].eq(1).all()
    assert pixels[0, :, :12].eq(-1).all()
    assert pixels[0, :, 44:].eq(-1).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (613, 2), (299, 299), (1000, 37)])
def test_odd_sizes(shape):
    pixels = GloriaImageProcessor()(np.zeros(shape, np.uint8), return_tensors="np")["pixel_values"]
    assert pixels.shape == (1, 3, 299, 299)


def test_normalization():
    processor = GloriaImageProcessor(size=8, crop_size=8, image_mean=[0.1, 0.2, 0.3], image_std=[0.5, 0.25, 1.0])
    pixels = processor(np.full((8, 8), 51, np.uint8), return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(pixels[0, :, 0, 0], [0.2, 0.0, -0.1], atol=1e-7)


def test_default_size_shows_the_field_of_view_of_the_released_code():
    assert GloriaImageProcessor().size == 342
    assert GloriaImageProcessor(crop_size=224).size == 256


def test_round_trip(tmp_path, no_network):
    saved = GloriaImageProcessor(size=50, crop_size=40, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6])
    saved.save_pretrained(tmp_path)
    loaded = GloriaImageProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == saved.to_dict()
    assert np.array_equal(loaded(GRAY)["pixel_values"], saved(GRAY)["pixel_values"])


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (None, TypeError, r"images\[1\]: NoneType is not an image; expected a PIL image"),
        ("missing.png", ValueError, r"images\[1\]: missing.png cannot be read as an image .*check that it exists"),
        (np.zeros((5, 5, 2)), ValueError, r"images\[1\]: the image has the shape \(5, 5, 2\); expected \(H, W\)"),
        (np.zeros((0, 4)), ValueError, r"the image has the shape \(0, 4\)"),
        (np.full((2, 2), np.nan), ValueError, r"images\[1\]: the image has pixels that are not finite"),
        (Image.new("L", (0, 3)), ValueError, r"the image is empty: 0 x 3 pixels"),
    ],
)
def test_unreadable_images_are_named(image, error, message):
    with pytest.raises(error, match=message):
        GloriaImageProcessor()([GRAY, image])


def test_cut_off_files_are_named(tmp_path):
    path = tmp_path / "cut.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 200), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:5000])
    for image in (path, Image.open(path)):
        with pytest.raises(ValueError, match=r"cut\.png cannot be read as an image"):
            to_rgb(image)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 100, "crop_size": 120}, "crop_size is 120 and size 100; expected 1 <= crop_size <= size"),
        ({"image_std": [0.5, 0.0, 0.5]}, r"image_std \[0.5, 0.0, 0.5\]; expected three numbers each .* above 0"),
    ],
)
def test_impossible_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        GloriaImageProcessor(**settings)


def test_an_empty_batch_is_named():
    with pytest.raises(ValueError, match="images is empty; expected one image or more"):
        GloriaImageProcessor()([])
