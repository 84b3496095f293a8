"""The display pipeline of gray DICOM: each attribute as it should be, absent, empty, odd and extreme."""

import warnings

import numpy as np
import pydicom
import pytest
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, RLELossless

from gloria.dicom import DicomWarning, read_dicom

STORED = (np.arange(16 * 20, dtype=np.uint16) * 12 + 100).reshape(16, 20)  # 100 to 3928 of 4095
STRETCHED = (STORED - 100) / 3828
UNCHANGED = {"rtol": 1e-12, "atol": 1e-12}


@pytest.fixture
def shown(tmp_path, dicom_file):
    """What is shown of stored values with elements of a data set. An element whose value is ... is taken out."""

    def show(values=STORED, warns=None, photometric="MONOCHROME2", bits=12, change=None, **elements):
        path = tmp_path / "a.dcm"
        data = dicom_file(path, values, photometric, bits, **{k: v for k, v in elements.items() if v is not ...})
        for keyword in [keyword for keyword, value in elements.items() if value is ...]:
            delattr(data, keyword)
        if change:
            change(data)
        data.save_as(path)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", DicomWarning)
            pixels = read_dicom(path)
        messages = [str(each.message) for each in caught if each.category is DicomWarning]
        if warns is None:
            assert messages == []
        else:
            assert any(warns in message for message in messages)
        return pixels

    return show


def raw(keyword, value, vr="DS"):
    """Puts bytes into an element that pydicom itself would not write."""

    def change(data):
        element = pydicom.DataElement(keyword, "LO" if vr == "DS" else vr, value)
        element.VR = vr
        data[keyword] = element

    return change


def linear(values, center, width):
    """The linear window of the standard, PS3.3 C.11.2.1.2.1."""
    return np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0, 1)


def table(entries, bits, first=0, vr="OW", count=None):
    """An item of a LUT sequence; entries of bytes are packed."""
    item = pydicom.Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries) if count is None else count, first, bits])
    item.add_new("LUTData", vr, entries.tobytes() if vr == "OW" else entries.tolist())
    return [item]


@pytest.mark.parametrize("bits", [12, 14, 16])
def test_without_a_window_the_range_of_the_pixels_is_shown_whatever_the_bits_stored(shown, bits):
    np.testing.assert_allclose(shown(bits=bits), STRETCHED, **UNCHANGED)
    np.testing.assert_allclose(shown(bits=bits, photometric="MONOCHROME1"), 1 - STRETCHED, **UNCHANGED)
    np.testing.assert_allclose(shown(STORED.astype(np.int16) - 2000, bits=bits), STRETCHED, **UNCHANGED)
    np.testing.assert_allclose(shown(STORED.astype(np.uint32) * 10**6, bits=32), STRETCHED, **UNCHANGED)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_one_value_is_black(shown, photometric):
    assert shown(np.full((4, 4), 7, np.int16), photometric=photometric).max() == (photometric == "MONOCHROME1")


def test_a_window_decides_the_gray_level_alone(shown):
    expected = linear(STORED, 2000, 6000)
    np.testing.assert_allclose(shown(WindowCenter=2000, WindowWidth=6000), expected, **UNCHANGED)
    assert 0.1 < expected.min() < expected.max() < 0.9
    marked = STORED.copy()
    marked[0, 0] = 4095
    assert np.array_equal(shown(marked, WindowCenter=2000, WindowWidth=6000)[1:], shown()[1:] * 0 + expected[1:])
    assert shown(WindowCenter=-5000, WindowWidth=100).min() == 1
    assert shown(WindowCenter=9000, WindowWidth=100).max() == 0
    negative = shown(photometric="MONOCHROME1", WindowCenter=2000, WindowWidth=6000)
    np.testing.assert_allclose(negative, 1 - expected, **UNCHANGED)


def test_functions_of_the_window(shown):
    window = {"WindowCenter": 2000, "WindowWidth": 1000}
    exact = np.clip((STORED - 2000.0) / 1000 + 0.5, 0, 1)
    sigmoid = 1 / (1 + np.exp(-4 * (STORED - 2000.0) / 1000))
    np.testing.assert_allclose(shown(VOILUTFunction="LINEAR_EXACT", **window), exact, **UNCHANGED)
    np.testing.assert_allclose(shown(VOILUTFunction="SIGMOID", **window), sigmoid, **UNCHANGED)
    np.testing.assert_allclose(shown(VOILUTFunction=None, **window), linear(STORED, 2000, 1000), **UNCHANGED)
    odd = shown(VOILUTFunction="LOG", warns="VOILUTFunction is LOG; expected one of", **window)
    np.testing.assert_allclose(odd, linear(STORED, 2000, 1000), **UNCHANGED)


@pytest.mark.parametrize("function", ["LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("width", [0, -5])
def test_no_function_has_a_use_for_a_window_without_width(shown, function, width):
    pixels = shown(WindowCenter=2000, WindowWidth=width, VOILUTFunction=function, warns=f"WindowWidth is {width}")
    np.testing.assert_allclose(pixels, STRETCHED, **UNCHANGED)


def test_a_window_of_width_1_is_a_threshold(shown):
    assert np.array_equal(shown(WindowCenter=2000, WindowWidth=1), (STORED > 1999.5) * 1.0)


@pytest.mark.parametrize(
    ("center", "width", "warns"),
    [
        ("2000", "0", "WindowWidth is 0"),
        ("2000", "-4096", "WindowWidth is -4096"),
        ("2000", "0.5", "WindowWidth is 0.5"),
        ("2000", "nan", "WindowWidth is no number"),
        ("2000", "inf", "WindowWidth is inf"),
        ("nan", "4096", "WindowCenter is no number"),
        ("2000", "4,5", "WindowWidth holds no number"),
        ("wide", "4096", "WindowCenter holds no number"),
        ("2000", "", "WindowWidth is no number"),
        ("", "4096", "WindowCenter is no number"),
        ("", "", None),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR DS")
def test_an_unusable_window_is_passed_over_and_named(shown, center, width, warns):
    def change(data):
        raw("WindowCenter", center)(data)
        raw("WindowWidth", width)(data)

    np.testing.assert_allclose(shown(change=change, warns=warns), STRETCHED, **UNCHANGED)


def test_the_first_usable_window_is_taken(shown):
    expected = linear(STORED, 2000, 1000)
    several = {"WindowCenter": [2000, 9], "WindowWidth": [1000, 9]}
    np.testing.assert_allclose(shown(**several), expected, **UNCHANGED)
    several = {"WindowCenter": [5, 2000], "WindowWidth": [0, 1000]}
    np.testing.assert_allclose(shown(warns="WindowWidth is 0", **several), expected, **UNCHANGED)
    np.testing.assert_allclose(shown(WindowCenter=2000, warns="WindowWidth is no number"), STRETCHED, **UNCHANGED)


def test_narrow_windows_of_fractional_values_are_exact(shown):
    rescaled = STORED * 0.000244
    for center, width in ((0.5, 0.9), (0.5, 1.0)):
        pixels = shown(RescaleSlope="0.000244", RescaleIntercept="0", WindowCenter=center, WindowWidth=width)
        np.testing.assert_allclose(pixels, np.clip((rescaled - center) / width + 0.5, 0, 1), **UNCHANGED)


@pytest.mark.parametrize(("slope", "intercept"), [("0.000244", "0"), ("2", "-1024"), ("1e300", "5"), ("1", "0")])
def test_rescaled_values_are_stretched(shown, slope, intercept):
    np.testing.assert_allclose(shown(RescaleSlope=slope, RescaleIntercept=intercept), STRETCHED, **UNCHANGED)


def test_a_window_is_of_rescaled_values(shown):
    pixels = shown(RescaleSlope=2, RescaleIntercept=-1024, WindowCenter=0, WindowWidth=400)
    np.testing.assert_allclose(pixels, linear(STORED * 2.0 - 1024, 0, 400), **UNCHANGED)
    falling = shown(RescaleSlope=-1)
    np.testing.assert_allclose(falling, 1 - STRETCHED, **UNCHANGED)
    # One of both may be missing.
    pixels = shown(RescaleIntercept=-1024, WindowCenter=0, WindowWidth=400)
    np.testing.assert_allclose(pixels, linear(STORED - 1024.0, 0, 400), **UNCHANGED)


@pytest.mark.parametrize(
    ("slope", "intercept", "warns"),
    [
        ("", "", None),
        ("0", "5", "RescaleSlope is 0 and RescaleIntercept 5"),
        ("nan", "", None),
        ("inf", "0", "RescaleSlope is inf"),
        ("1e306", "0", "RescaleSlope is 1e\\+306"),
        ("1,0", "0", "RescaleSlope holds no number"),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR DS")
def test_an_unusable_rescale_is_passed_over_and_named(shown, slope, intercept, warns):
    def change(data):
        raw("RescaleSlope", slope)(data)
        raw("RescaleIntercept", intercept)(data)

    np.testing.assert_allclose(shown(change=change, warns=warns and warns.replace("\\", "")), STRETCHED, **UNCHANGED)


def test_a_modality_lut_comes_before_the_window(shown):
    entries = (np.arange(4096) ** 2 // 256).astype("<u2")
    looked_up = STORED.astype(float) ** 2 // 256
    modality = table(entries, 16)
    pixels = shown(ModalityLUTSequence=modality, WindowCenter=20000, WindowWidth=30000)
    np.testing.assert_allclose(pixels, linear(looked_up, 20000, 30000), **UNCHANGED)
    pixels = shown(ModalityLUTSequence=modality)
    np.testing.assert_allclose(pixels, (looked_up - looked_up.min()) / np.ptp(looked_up), **UNCHANGED)


@pytest.mark.parametrize("vr", ["OW", "US"])
@pytest.mark.parametrize(("bits", "declared"), [(8, 8), (12, 12), (12, 16), (16, 16), (16, 8), (16, 0)])
def test_a_voi_lut_is_shown_by_its_own_depth(shown, bits, declared, vr):
    """Tables of 8 bits with more than 256 entries, which pydicom wraps; depths declared too large and too small."""
    entries = (np.arange(4096) >> 12 - min(bits, 12) << max(0, bits - 12)).astype("<u2")
    pixels = shown(VOILUTSequence=table(entries, declared, vr=vr))
    np.testing.assert_allclose(pixels, entries[STORED] / (2**bits - 1), **UNCHANGED)


def test_values_beyond_a_table_have_its_ends(shown):
    entries = np.arange(0, 60000, 30).astype("<u2")  # 2000 entries, from 1000 on
    for values in (STORED, STORED.astype(np.int16) - 2000):
        for first in (1000, -700):
            pixels = shown(values, VOILUTSequence=table(entries, 16, first))
            expected = entries[np.clip(values.astype(int) - first, 0, 1999)] / 65535
            np.testing.assert_allclose(pixels, expected, **UNCHANGED)
    # Declared unsigned, as explicit files do, though the pixels are signed.
    values = STORED.astype(np.int16) - 2000
    pixels = shown(values, VOILUTSequence=table(entries, 16, 65536 - 700))
    np.testing.assert_allclose(pixels, entries[np.clip(values + 700, 0, 1999)] / 65535, **UNCHANGED)


def test_tables_of_bytes_and_of_65536_entries(shown):
    values = (STORED >> 4).astype(np.uint8)
    packed = table((255 - np.arange(256)).astype(np.uint8), 8)
    np.testing.assert_allclose(shown(values, bits=8, VOILUTSequence=packed), 1 - values / 255, **UNCHANGED)
    whole = table(np.arange(65535, -1, -1).astype("<u2"), 16, count=0)
    np.testing.assert_allclose(shown(STORED, VOILUTSequence=whole), 1 - STORED / 65535, **UNCHANGED)


def test_the_voi_lut_is_preferred_and_the_window_replaces_an_unusable_one(shown):
    window = {"WindowCenter": 2000, "WindowWidth": 1000}
    entries = np.arange(4096).astype("<u2")
    pixels = shown(VOILUTSequence=table(entries, 12), **window)
    np.testing.assert_allclose(pixels, STORED / 4095, **UNCHANGED)
    short = table(entries[:100], 12, count=4096)
    pixels = shown(VOILUTSequence=short, warns="VOILUTSequence is unusable (its data hold fewer entries", **window)
    np.testing.assert_allclose(pixels, linear(STORED, 2000, 1000), **UNCHANGED)
    pixels = shown(VOILUTSequence=[*short, *table(entries, 12)], warns="VOILUTSequence is unusable", **window)
    np.testing.assert_allclose(pixels, STORED / 4095, **UNCHANGED)
    without = [pydicom.Dataset()]
    pixels = shown(VOILUTSequence=without, warns="its descriptor is None; expected three numbers")
    np.testing.assert_allclose(pixels, STRETCHED, **UNCHANGED)
    np.testing.assert_allclose(shown(VOILUTSequence=[], ModalityLUTSequence=[]), STRETCHED, **UNCHANGED)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("window", [{}, {"WindowCenter": 2000, "WindowWidth": 6000}])
@pytest.mark.parametrize(
    ("fill", "dtype", "padding"),
    [
        (0, np.uint16, {"PixelPaddingValue": 0}),
        (65535, np.uint16, {"PixelPaddingValue": 65535}),  # beyond the bits stored
        (-2000, np.int16, {"PixelPaddingValue": -2000}),
        (-32768, np.int16, {"PixelPaddingValue": -32768}),
        (63536, np.uint16, {"PixelPaddingValue": 63536, "PixelPaddingRangeLimit": 65535}),
        (4094, np.uint16, {"PixelPaddingValue": 4090, "PixelPaddingRangeLimit": 4095}),
        (4094, np.uint16, {"PixelPaddingValue": 4095, "PixelPaddingRangeLimit": 4090}),
    ],
)
def test_padding_takes_no_part_and_is_black(shown, fill, dtype, padding, window, photometric):
    values = STORED.astype(dtype)
    values[:4] = fill
    pixels = shown(values, photometric=photometric, bits=16 if dtype == np.int16 else 12, **window, **padding)
    assert pixels[:4].max() == 0
    inside = STORED[4:].astype(float)
    expected = linear(inside, 2000, 6000) if window else (inside - inside.min()) / np.ptp(inside)
    np.testing.assert_allclose(pixels[4:], 1 - expected if photometric == "MONOCHROME1" else expected, **UNCHANGED)


def test_padding_is_found_whatever_the_sign_of_its_element(shown):
    values = STORED.astype(np.int16)
    values[:4] = -2000
    pixels = shown(values, bits=16, change=raw("PixelPaddingValue", 63536, "US"))
    assert pixels[:4].max() == 0
    assert pixels[4:].min() == 0
    assert pixels[4].mean() < 0.1
    values = STORED.copy()
    values[:4] = 63536
    pixels = shown(values, bits=16, change=raw("PixelPaddingValue", -2000, "SS"))
    assert pixels[:4].max() == 0
    assert pixels[-1].max() == 1


@pytest.mark.parametrize("padding", [{"PixelPaddingValue": None}, {"PixelPaddingRangeLimit": 4095}])
def test_padding_without_a_value_is_none(shown, padding):
    np.testing.assert_allclose(shown(**padding), STRETCHED, **UNCHANGED)


def test_padding_of_all_values_is_passed_over_and_named(shown):
    pixels = shown(
        PixelPaddingValue=0, PixelPaddingRangeLimit=4095, warns="all pixels lie in the range of PixelPadding"
    )
    np.testing.assert_allclose(pixels, STRETCHED, **UNCHANGED)


@pytest.mark.parametrize("syntax", [None, RLELossless])
def test_only_the_bits_stored_count(shown, syntax):
    """Old devices keep overlays in the bits beyond HighBit, or store 12 bits in the upper ones."""

    def compress(data):
        if syntax:
            data.compress(syntax)

    noise = np.random.default_rng(0).integers(0, 16, STORED.shape, dtype=np.uint16)
    window = {"WindowCenter": 2000, "WindowWidth": 1000}
    expected = linear(STORED, 2000, 1000)
    np.testing.assert_allclose(shown(STORED | noise << 12, change=compress, **window), expected, **UNCHANGED)
    upper = shown(STORED << 4 | noise, HighBit=15, change=compress, **window)
    np.testing.assert_allclose(upper, expected, **UNCHANGED)
    signed = STORED.astype(np.int16) - 2048
    window = {"WindowCenter": -48, "WindowWidth": 1000}
    unextended = shown(signed & 0x0FFF, change=compress, **window)
    np.testing.assert_allclose(unextended, expected, **UNCHANGED)


def test_a_description_left_out_is_filled_in(shown):
    expected = {"desired": STRETCHED, **UNCHANGED}
    np.testing.assert_allclose(shown(HighBit=...), **expected)
    np.testing.assert_allclose(
        shown(HighBit=3, warns="HighBit is 3, with 12 of 16 bits stored; read as 11"), **expected
    )
    np.testing.assert_allclose(shown(BitsStored=..., HighBit=..., warns="BitsStored is absent; read as 16"), **expected)
    np.testing.assert_allclose(shown(PixelRepresentation=..., warns="PixelRepresentation is absent"), **expected)
    np.testing.assert_allclose(shown(SamplesPerPixel=..., warns="SamplesPerPixel is absent; read as 1"), **expected)
    for photometric in (..., "", "RGB", "MONO"):
        pixels = shown(PhotometricInterpretation=photometric, warns="shown as MONOCHROME2")
        np.testing.assert_allclose(pixels, **expected)
    np.testing.assert_allclose(shown(photometric="monochrome1 "), 1 - STRETCHED, **UNCHANGED)
    for frames in ("", "0", "1"):
        np.testing.assert_allclose(shown(change=raw("NumberOfFrames", frames, "IS")), **expected)


def test_frames_beyond_those_declared_are_not_read(shown):
    def two(data):
        data.PixelData = STORED.tobytes() + STORED[::-1].tobytes()

    np.testing.assert_allclose(shown(change=two), STRETCHED, **UNCHANGED)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_the_photometric_interpretation_decides_what_is_dark(shown, photometric):
    plain = shown(photometric=photometric)
    agreeing, other = ("INVERSE", "IDENTITY") if photometric == "MONOCHROME1" else ("IDENTITY", "INVERSE")
    assert np.array_equal(shown(photometric=photometric, PresentationLUTShape=agreeing), plain)
    contradicting = shown(photometric=photometric, PresentationLUTShape=other, warns="which contradicts")
    assert np.array_equal(contradicting, plain)


@pytest.mark.parametrize("groups", ["SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"])
def test_an_enhanced_image_of_one_frame_has_its_window_in_its_groups(shown, groups):
    rescale, window, group = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
    rescale.RescaleSlope, rescale.RescaleIntercept = 2, -1024
    window.WindowCenter, window.WindowWidth = 0, 400
    group.PixelValueTransformationSequence, group.FrameVOILUTSequence = [rescale], [window]
    expected = linear(STORED * 2.0 - 1024, 0, 400)
    np.testing.assert_allclose(shown(**{groups: [group]}), expected, **UNCHANGED)
    np.testing.assert_allclose(shown(WindowCenter=None, WindowWidth="", **{groups: [group]}), expected, **UNCHANGED)
    # What the image itself says goes before.
    outer = shown(WindowCenter=500, WindowWidth=900, **{groups: [group]})
    np.testing.assert_allclose(outer, linear(STORED * 2.0 - 1024, 500, 900), **UNCHANGED)


@pytest.mark.parametrize("keyword", ["FloatPixelData", "DoubleFloatPixelData"])
def test_floats_are_shown_and_what_is_not_finite_is_padding(shown, keyword):
    values = STRETCHED.astype(np.float32 if keyword == "FloatPixelData" else np.float64)
    values[0, :3], values[1] = [np.nan, np.inf, -np.inf], -5

    def floats(data):
        del data.PixelData
        data.BitsAllocated = 8 * values.itemsize
        data[keyword] = pydicom.DataElement(keyword, "OF" if values.itemsize == 4 else "OD", values.tobytes())
        prefix = keyword.removesuffix("PixelData")
        data.add_new(f"{prefix}PixelPaddingValue", "FL" if values.itemsize == 4 else "FD", -5)

    pixels = shown(change=floats)
    finite = STRETCHED[2:]
    np.testing.assert_allclose(pixels[2:], (finite - values[0, 3]) / (1 - values[0, 3]), rtol=1e-6)
    assert pixels[0, :3].max() == pixels[1].max() == 0
    exact = shown(change=floats, WindowCenter=0.5, WindowWidth=0.5)
    np.testing.assert_allclose(exact[2:], np.clip((finite - 0.5) / 0.5 + 0.5, 0, 1), atol=1e-6)
    rescaled = shown(change=floats, RescaleSlope=1, RescaleIntercept=1, WindowCenter=1.5, WindowWidth=0.5)
    np.testing.assert_allclose(rescaled[2:], exact[2:], atol=1e-6)
    if values.dtype == np.float64:
        values[2:] = (STRETCHED[2:] - 0.5) * 1.7e308 * 2
        first = STRETCHED[2, 0]
        np.testing.assert_allclose(shown(change=floats)[2:], (finite - first) / (1 - first), rtol=1e-6, atol=1e-12)
    values[:] = np.nan
    with pytest.raises(ValueError, match="it has no pixel that is finite"):
        shown(change=floats)


@pytest.mark.parametrize("syntax", [None, ImplicitVRLittleEndian, ExplicitVRBigEndian], ids=str)
def test_files_without_a_transfer_syntax_are_read_as_they_are_written(tmp_path, dicom_file, syntax):
    """The preamble and the meta information are what old devices leave out."""
    data = dicom_file(tmp_path / "a.dcm", STORED, WindowCenter=2000, WindowWidth=6000)
    if syntax == ExplicitVRBigEndian:
        data.PixelData = STORED.astype(">u2").tobytes()
    del data.file_meta
    implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    data.save_as(tmp_path / "a.dcm", implicit_vr=implicit, little_endian=little, enforce_file_format=False)
    np.testing.assert_allclose(read_dicom(tmp_path / "a.dcm"), linear(STORED, 2000, 6000), **UNCHANGED)


def test_a_big_endian_table(tmp_path, dicom_file):
    entries = np.arange(4095, -1, -1)
    data = dicom_file(tmp_path / "a.dcm", STORED, VOILUTSequence=table(entries.astype(">u2"), 12))
    data.PixelData = STORED.astype(">u2").tobytes()
    data.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    data.save_as(tmp_path / "a.dcm", implicit_vr=False, little_endian=False)
    np.testing.assert_allclose(read_dicom(tmp_path / "a.dcm"), 1 - STORED / 4095, **UNCHANGED)
