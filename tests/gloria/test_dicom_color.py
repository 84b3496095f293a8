"""Colors of DICOM: RGB in either order of planes, YBR converted, palettes looked up, contradictions refused by name."""

import numpy as np
import pytest

from gloria.dicom import DicomWarning, read_dicom
from gloria.images import to_rgb

COLORS = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
INDICES = np.arange(48, dtype=np.uint8).reshape(6, 8)


@pytest.fixture
def colored(tmp_path, dicom_file):
    """Writes a file of three samples a pixel, (H, W, 3), and gives its path."""

    def write(values, photometric="RGB", bits=8, planes=0, samples=3, **elements):
        path = tmp_path / "a.dcm"
        data = dicom_file(path, values[..., 0], photometric, bits, **elements)
        data.SamplesPerPixel = samples
        if planes is not None:
            data.PlanarConfiguration = planes
        data.PixelData = (values.transpose(2, 0, 1) if planes else values).tobytes()
        data.save_as(path)
        return path

    return write


@pytest.fixture
def palette(tmp_path, dicom_file):
    """Writes a file of indices with three tables of entries, (3, N), and gives its path."""

    def write(values, entries, first=0, bits=16, segmented="", count=None):
        elements = {}
        for channel, table in zip(("Red", "Green", "Blue"), entries, strict=True):
            name = f"{channel}PaletteColorLookupTable"
            elements[f"{name}Descriptor"] = [len(table) % 65536 if count is None else count, first, bits]
            elements[f"{segmented}{name}Data"] = table.tobytes() + bytes(table.nbytes % 2)
        path = tmp_path / "a.dcm"
        dicom_file(path, values, "PALETTE COLOR", 8 * values.itemsize, **elements)
        return path

    return write


def table(size, top, dtype):
    return np.random.default_rng(1).integers(0, top + 1, (3, size)).astype(dtype)


@pytest.mark.parametrize("planes", [0, 1, None])
def test_rgb_is_kept_in_either_order_of_planes(colored, planes):
    assert np.array_equal(to_rgb(colored(COLORS, planes=planes)), COLORS)


def test_windows_are_for_gray(colored):
    assert np.array_equal(to_rgb(colored(COLORS, WindowCenter=10, WindowWidth=5)), COLORS)


@pytest.mark.parametrize(("bits", "top"), [(16, 65535), (16, 4095), (12, 4095)])
def test_deep_colors_are_scaled_by_the_depth_that_holds_them(colored, bits, top):
    deep = np.rint(COLORS.astype(float) * top / 255).astype(np.uint16)
    deep[0, 0] = top
    expected = COLORS.copy()
    expected[0, 0] = 255
    assert np.abs(read_dicom(colored(deep, bits=bits)).astype(int) - expected).max() <= 1


def test_few_bits_are_scaled_by_their_depth(colored):
    assert np.array_equal(read_dicom(colored(COLORS >> 4, bits=4)), (COLORS >> 4) * 17)


def test_signed_color_is_read_as_unsigned_and_named(colored):
    path = colored(COLORS, PixelRepresentation=1)
    with pytest.warns(DicomWarning, match="PixelRepresentation is 1, in color; read as 0"):
        assert np.array_equal(read_dicom(path), COLORS)


def test_three_samples_without_an_interpretation_are_rgb(colored):
    path = colored(COLORS, photometric="")
    with pytest.warns(DicomWarning, match="PhotometricInterpretation is absent, with three samples"):
        assert np.array_equal(read_dicom(path), COLORS)


def test_ybr_is_converted(colored):
    """PS3.3 C.7.6.3.1.2, the inverse of YBR_FULL."""
    y, b, r = np.moveaxis(COLORS.astype(float), 2, 0) - np.array([0, 128, 128])[:, None, None]
    expected = np.stack([y + 1.402 * r, y - 0.344136 * b - 0.714136 * r, y + 1.772 * b], axis=-1)
    shown = read_dicom(colored(COLORS, photometric="YBR_FULL")).astype(int)
    assert np.abs(shown - np.clip(expected, 0, 255)).max() <= 1


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "PALETTE COLOR", "YBR_PARTIAL_422", "HSV", "ARGB", "CMYK"])
def test_interpretations_that_nobody_can_show_are_refused(colored, photometric):
    with pytest.raises(
        ValueError, match=f"PhotometricInterpretation is '{photometric}', with three samples a pixel; exp"
    ):
        read_dicom(colored(COLORS, photometric=photometric))


@pytest.mark.parametrize("samples", [0, 2, 4])
def test_other_numbers_of_samples_are_refused(colored, samples):
    with pytest.raises(ValueError, match=f"SamplesPerPixel is {samples}; expected 1 or 3"):
        read_dicom(colored(COLORS, samples=samples))


@pytest.mark.parametrize(
    ("values", "entries", "bits", "scale"),
    [
        (INDICES, table(48, 255, "<u2") * 257, 16, 1 / 257),
        (INDICES, table(48, 255, "u1"), 8, 1),
        (INDICES, table(47, 255, "u1"), 8, 1),  # of an odd number, so that a byte is added
        (INDICES, table(48, 255, "<u2"), 16, 1),  # entries of 8 bits declared as of 16
        (INDICES, table(48, 255, "<u2"), 8, 1),  # and in two bytes each
        (INDICES.astype("<u2") * 1000, table(65536, 65535, "<u2"), 16, 1 / 257),
        (INDICES.astype("<u2") * 40, table(4096, 255, "u1"), 8, 1),  # more entries of a byte than a byte counts
    ],
)
def test_indices_are_looked_up_in_the_palette(palette, values, entries, bits, scale):
    expected = np.moveaxis(entries[:, np.minimum(values, entries.shape[1] - 1)] * scale, 0, 2)
    shown = read_dicom(palette(values, entries, bits=bits))
    assert shown.dtype == np.uint8
    assert np.abs(shown - expected).max() <= 0.51


def test_indices_beyond_the_palette_have_its_ends(palette):
    entries = table(20, 255, "<u2") * 257
    shown = read_dicom(palette(INDICES, entries, first=10))
    expected = np.moveaxis(entries[:, np.clip(INDICES.astype(int) - 10, 0, 19)] // 257, 0, 2)
    assert np.array_equal(shown, expected)


@pytest.mark.parametrize(("bits", "dtype", "scale"), [(16, "<u2", 257), (8, "u1", 1)])
def test_a_segmented_palette(palette, bits, dtype, scale):
    # PS3.3 C.7.9.2: discrete, 2 entries: 10, 20; linear, 8 entries to 100.
    segments = np.array([0, 2, 10 * scale, 20 * scale, 1, 8, 100 * scale]).astype(dtype)
    path = palette(np.minimum(INDICES, 9), [segments] * 3, bits=bits, segmented="Segmented", count=10)
    entries = np.array([10, 20, *np.linspace(30, 100, 8)])
    expected = entries[np.minimum(INDICES, 9)][..., None]
    assert np.abs(read_dicom(path) - expected).max() <= 0.51


def test_palettes_that_cannot_be_looked_up_are_refused(palette, tmp_path, dicom_file):
    dicom_file(tmp_path / "none.dcm", INDICES, "PALETTE COLOR", 8)
    with pytest.raises(ValueError, match="RedPaletteColorLookupTable is damaged: its descriptor is None"):
        read_dicom(tmp_path / "none.dcm")
    with pytest.raises(ValueError, match=r"RedPaletteColorLookupTable is damaged: its data hold fewer entries .* 300"):
        read_dicom(palette(INDICES, table(48, 65535, "<u2"), count=300))
    segments = [np.zeros(4, np.uint8)] * 3
    with pytest.raises(ValueError, match="its segmented palette has 4096 entries of 8 bits; expected 1 to 256"):
        read_dicom(palette(INDICES, segments, bits=8, segmented="Segmented", count=4096))
