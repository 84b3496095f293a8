"""DICOM files: told from others, decoded whatever their transfer syntax, or refused by name."""

import builtins
import io
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.uid import HTJ2KLossless, JPEG2000Lossless, JPEGBaseline8Bit, JPEGLSLossless, RLELossless

from gloria import GloriaImageProcessor
from gloria.dicom import is_dicom, read_dicom
from gloria.images import to_rgb

STORED = (np.arange(16 * 20, dtype=np.uint16) * 12).reshape(16, 20)  # 0 to 3828 of 4095


def test_jpeg_and_rle_are_decoded(tmp_path, dicom_file):
    gray = (STORED // 16).astype(np.uint8)
    data = dicom_file(tmp_path / "a.dcm", gray, bits=8)
    jpeg = io.BytesIO()
    Image.fromarray(gray).save(jpeg, "JPEG", quality=95)
    data.PixelData = encapsulate([jpeg.getvalue()])
    data["PixelData"].is_undefined_length = True
    data.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    data.save_as(tmp_path / "jpeg.dcm")
    assert np.abs(read_dicom(tmp_path / "jpeg.dcm") * gray.max() - gray).max() < 8
    plain = pydicom.dcmread(tmp_path / "a.dcm")
    plain.compress(RLELossless)
    plain.save_as(tmp_path / "rle.dcm")
    np.testing.assert_allclose(read_dicom(tmp_path / "rle.dcm"), gray / gray.max(), rtol=1e-15)


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


PYDICOM = Path(get_testdata_file("MR_small.dcm", download=False)).parent


@pytest.mark.parametrize(
    "same",
    [
        [
            "MR_small",
            "MR_small_bigendian",
            "MR_small_expb",
            "MR_small_implicit",
            "MR_small_RLE",
            "MR_small_jp2klossless",
        ],
        ["MR_small", "MR_small_padded"],
        ["liver_1frame", "liver_expb_1frame"],
        ["rtdose_1frame", "rtdose_expb_1frame", "rtdose_rle_1frame"],
        ["SC_rgb_small_odd", "SC_rgb_small_odd_big_endian"],
        ["SC_rgb_rle", "SC_rgb_rle_16bit", "SC_rgb_rle_32bit"],
    ],
    ids=lambda names: names[0],
)
@pytest.mark.filterwarnings("ignore:The pixel data is")
def test_real_files_of_one_image_are_one_picture_whatever_their_transfer_syntax(same):
    """Files that pydicom brings along: gray, one bit, color, 8 to 32 bits, either order of bytes."""
    first, *others = (np.asarray(to_rgb(PYDICOM / f"{name}.dcm")) for name in same)
    assert np.ptp(first) > 100
    for other in others:
        assert np.array_equal(first, other)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("rtdose", "it has 15 frames; save the one to use as a file of its own"),
        ("test-SR", "it holds no pixels"),
        ("MR_truncated", "less than expected"),
        ("JPGExtended", "does not support 'JPEG Extended' .*install a decoder: pip"),
        ("meta_missing_tsyntax", "Missing required element: .*Bits Allocated"),
    ],
)
@pytest.mark.filterwarnings("ignore::gloria.dicom.DicomWarning")
def test_real_files_without_one_readable_image_are_refused_by_name(name, reason):
    with pytest.raises(ValueError, match=rf"{name}\.dcm cannot be read as DICOM \(.*{reason}"):
        read_dicom(PYDICOM / f"{name}.dcm")


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
