"""DICOM: shown as a viewer shows it, whatever its photometric interpretation, window and depth, or refused by name."""

import builtins
import io

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import HTJ2KLossless, JPEG2000Lossless, JPEGBaseline8Bit, JPEGLSLossless, RLELossless

from gloria import GloriaImageProcessor
from gloria.dicom import is_dicom, read_dicom
from gloria.images import to_rgb

STORED = (np.arange(16 * 20, dtype=np.uint16) * 12).reshape(16, 20)  # 0 to 3828 of 4095


def test_stored_values_are_shown_by_their_depth(tmp_path, dicom_file):
    dicom_file(tmp_path / "a.dcm", STORED)
    np.testing.assert_allclose(read_dicom(tmp_path / "a.dcm"), STORED / 4095, rtol=1e-15)
    assert np.abs(np.asarray(to_rgb(tmp_path / "a.dcm"))[..., 0] - STORED / 4095 * 255).max() <= 0.5


def test_monochrome1_is_the_negative(tmp_path, dicom_file):
    dicom_file(tmp_path / "a.dcm", STORED, photometric="MONOCHROME1")
    np.testing.assert_allclose(read_dicom(tmp_path / "a.dcm"), 1 - STORED / 4095, rtol=1e-15)
    dicom_file(tmp_path / "b.dcm", STORED, photometric="MONOCHROME1", WindowCenter=2000, WindowWidth=1000)
    shown = read_dicom(tmp_path / "b.dcm")
    assert shown[STORED < 1400].min() == 1
    assert shown[STORED > 2600].max() == 0


def test_windows_are_applied(tmp_path, dicom_file):
    dicom_file(tmp_path / "a.dcm", STORED, WindowCenter=[2000, 1], WindowWidth=[1000, 1])
    shown = read_dicom(tmp_path / "a.dcm")
    # The linear window of the standard (PS3.3 C.11.2.1.2.1), stretched to 0 ... 1.
    expected = np.clip((STORED - (2000 - 0.5)) / (1000 - 1) + 0.5, 0, 1)
    np.testing.assert_allclose(shown, expected, atol=1e-12)


def test_lookup_tables_are_applied(tmp_path, dicom_file):
    table = pydicom.Dataset()
    table.LUTDescriptor = [4096, 0, 16]
    table.add_new("LUTData", "OW", (np.arange(4096) ** 2 // 256).astype(np.uint16).tobytes())
    dicom_file(tmp_path / "a.dcm", STORED, VOILUTSequence=[table])
    looked_up = STORED.astype(float) ** 2 // 256
    np.testing.assert_allclose(read_dicom(tmp_path / "a.dcm"), looked_up / looked_up.max(), rtol=1e-12)


def test_rescaled_and_signed_values_are_stretched(tmp_path, dicom_file):
    signed = STORED.astype(np.int16) - 1000
    dicom_file(tmp_path / "a.dcm", signed, bits=16, RescaleSlope=2, RescaleIntercept=-24)
    shown = read_dicom(tmp_path / "a.dcm")
    np.testing.assert_allclose(shown, STORED / STORED.max(), rtol=1e-12)
    dicom_file(tmp_path / "flat.dcm", np.full((4, 4), 7, np.int16))
    assert read_dicom(tmp_path / "flat.dcm").max() == 0


def test_jpeg_and_rle_are_decoded(tmp_path, dicom_file):
    grey = (STORED // 16).astype(np.uint8)
    data = dicom_file(tmp_path / "a.dcm", grey, bits=8)
    jpeg = io.BytesIO()
    Image.fromarray(grey).save(jpeg, "JPEG", quality=95)
    data.PixelData = encapsulate([jpeg.getvalue()])
    data["PixelData"].is_undefined_length = True
    data.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    data.save_as(tmp_path / "jpeg.dcm")
    assert np.abs(read_dicom(tmp_path / "jpeg.dcm") * 255 - grey).max() < 8
    plain = pydicom.dcmread(tmp_path / "a.dcm")
    plain.compress(RLELossless)
    plain.save_as(tmp_path / "rle.dcm")
    np.testing.assert_allclose(read_dicom(tmp_path / "rle.dcm"), grey / 255, rtol=1e-15)


@pytest.mark.parametrize("syntax", [JPEGLSLossless, HTJ2KLossless], ids=lambda uid: uid.name)
def test_a_missing_decoder_is_named_with_the_fix(tmp_path, dicom_file, syntax):
    data = dicom_file(tmp_path / "a.dcm", STORED)
    data.PixelData = encapsulate([b"\xff\xd8 no decoder sees this"])
    data["PixelData"].is_undefined_length = True
    data.file_meta.TransferSyntaxUID = syntax
    data.save_as(tmp_path / "a.dcm")
    with pytest.raises(
        ValueError, match=r"a\.dcm cannot be read as DICOM \(Unable to decompress .*install a decoder: pip"
    ):
        to_rgb(tmp_path / "a.dcm")


def test_damaged_files_are_named(tmp_path, dicom_file):
    data = dicom_file(tmp_path / "a.dcm", STORED)
    whole = (tmp_path / "a.dcm").read_bytes()
    random = np.random.default_rng(0)
    for cut in random.integers(0, len(whole) - 2, 25):
        (tmp_path / "cut.dcm").write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=r"images\[0\]: .*cut\.dcm cannot be read as DICOM"):
            GloriaImageProcessor()(tmp_path / "cut.dcm")
    data.PixelData = encapsulate([b"garbage"])
    data["PixelData"].is_undefined_length = True
    data.file_meta.TransferSyntaxUID = JPEG2000Lossless
    data.save_as(tmp_path / "b.dcm")
    (tmp_path / "c.dcm").write_text("no DICOM at all")
    dicom_file(tmp_path / "d.dcm", STORED, NumberOfFrames=2)
    for name, reason in (
        ("b", "Unable to decode"),
        ("c", "it holds no pixels"),
        ("d", "it has 2 frames"),
        ("e", "No such"),
    ):
        with pytest.raises(ValueError, match=rf"{name}\.dcm cannot be read as DICOM \(.*{reason}"):
            read_dicom(tmp_path / f"{name}.dcm")


def test_told_by_name_or_by_content(tmp_path, dicom_file):
    dicom_file(tmp_path / "named", STORED)
    Image.new("L", (20, 20)).save(tmp_path / "a.png")
    assert is_dicom(tmp_path / "named")
    assert is_dicom("other.DCM")
    assert not is_dicom(tmp_path / "a.png")
    assert not is_dicom(tmp_path / "none")
    for name in ("named", "a.png"):
        with (tmp_path / name).open("rb") as file:
            assert is_dicom(file) == (name == "named")
            assert np.array_equal(to_rgb(file), to_rgb(tmp_path / name))


def test_colour_is_kept(tmp_path, dicom_file):
    data = dicom_file(tmp_path / "a.dcm", np.zeros((4, 4), np.uint8), bits=8)
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration = 3, "RGB", 0
    colours = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    data.PixelData = colours.tobytes()
    data.save_as(tmp_path / "a.dcm")
    assert np.array_equal(to_rgb(tmp_path / "a.dcm"), colours)


def test_without_pydicom_the_fix_is_named(tmp_path, dicom_file, monkeypatch):
    dicom_file(tmp_path / "a.dcm", STORED)
    usual = builtins.__import__

    def without(name, *arguments, **keywords):
        if name.startswith("pydicom"):
            raise ImportError(name)
        return usual(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match="is DICOM, which pydicom reads; pip install pydicom"):
        to_rgb(tmp_path / "a.dcm")
