"""Parquet that holds its images, as hubs write it: unpacked once, and read like files."""

import io
import os

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from gloria.data import TableDataset, find_problems, read_table, write_table
from gloria.images import to_rgb


@pytest.fixture
def files(tmp_path, picture_file, dicom_file, pictures):
    """Bytes of a PNG, a JPEG and a DICOM file."""
    for number, name in enumerate(("a.png", "b.jpg")):
        picture_file(tmp_path / "source" / name, number)
    dicom_file(tmp_path / "source" / "c.dcm", pictures[0], bits=8)
    return [(tmp_path / "source" / name).read_bytes() for name in ("a.png", "b.jpg", "c.dcm")]


def written(path, image, **columns):
    count = len(image)
    table = {"image": image, "report": [f"Report {number}." for number in range(count)], **columns}
    pyarrow.parquet.write_table(pyarrow.table(table), path)
    return path


def test_bytes_and_structs_of_bytes_are_read(tmp_path, files):
    structs = [{"bytes": data, "path": path} for data, path in zip(files, ("x.png", None, "../y/z.DCM"), strict=True)]
    for name, image in (
        ("bytes.parquet", files),
        ("hub.Parquet", structs),
        ("large.parquet", pyarrow.array(files, "large_binary")),
    ):
        rows = read_table(written(tmp_path / name, image))
        assert [row.report for row in rows] == ["Report 0.", "Report 1.", "Report 2."]
        assert [row.image.read_bytes() for row in rows] == files
        assert [row.image.suffix.lower() for row in rows] == [".png", ".jpeg", ".dcm"]
        assert {row.image.parent for row in rows} == {tmp_path / f"{name}.files"}
        assert find_problems(rows) == []
        for row, data in zip(rows, files, strict=True):
            assert np.array_equal(to_rgb(row.image), to_rgb(io.BytesIO(data)))
        assert not list(tmp_path.rglob("*.tmp"))


def test_rows_without_bytes_have_their_path_or_nothing(tmp_path, files, processor):
    image = [
        {"bytes": files[0], "path": None},
        {"bytes": None, "path": "source/b.jpg"},
        {"bytes": None, "path": None},
        None,
    ]
    masks = [None, None, None, {"bytes": files[1], "path": "m.jpg"}]
    rows = read_table(written(tmp_path / "a.parquet", image, mask=masks))
    assert [row.image and row.image.read_bytes() for row in rows] == [*files[:2], None, None]
    assert [row.mask and row.mask.read_bytes() for row in rows] == [None, None, None, files[1]]
    assert [str(problem) for problem in find_problems(rows)] == [f"row {row}: the image is not named" for row in (3, 4)]
    assert TableDataset(rows[:2], processor)[1]["report"] == "Report 1."
    write_table(tmp_path / "elsewhere.csv", rows)
    assert [row.image for row in read_table(tmp_path / "elsewhere.csv")] == [row.image for row in rows]


def test_a_table_of_images_alone(tmp_path, files):
    path = written(tmp_path / "a.parquet", files)
    pyarrow.parquet.write_table(pyarrow.table({"image": files}), path)
    assert [row.image.read_bytes() for row in read_table(path, ["image"])] == files


def test_images_are_unpacked_once_for_each_version_of_the_table(tmp_path, files):
    path = written(tmp_path / "a.parquet", files[:2])
    first = read_table(path)
    first[0].image.write_bytes(b"kept")
    assert read_table(path) == first
    assert first[0].image.read_bytes() == b"kept"  # not written again
    written(path, files[1:])
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 10**9))
    assert [row.image.read_bytes() for row in read_table(path)] == files[1:]
    for listing in (b"", b"[]", b'{"version": 1}', b"\xff"):
        (tmp_path / "a.parquet.files" / "image.json").write_bytes(listing)
        assert [row.image.read_bytes() for row in read_table(path)] == files[1:]


def test_what_is_no_image_is_a_bad_row(tmp_path, files):
    (bad,) = find_problems(read_table(written(tmp_path / "a.parquet", [files[0], b"no image"])))
    assert str(bad).startswith("row 2: the image is unreadable")


def test_a_folder_that_cannot_be_made_is_named(tmp_path, files):
    path = written(tmp_path / "a.parquet", files)
    (tmp_path / "a.parquet.files").write_text("in the way")
    with pytest.raises(
        OSError, match=r"images in \S+a\.parquet are unpacked beside it; copy it to a folder that has room"
    ):
        read_table(path)


def test_pixels_of_another_layout_are_named(tmp_path):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"image": [[[0, 1], [2, 3]]], "report": ["Words."]}), path)
    (bad,) = find_problems(read_table(path))
    assert str(bad) == "row 1: image holds a list, [[0, 1], [2, 3]]; expected text"


def test_a_suffix_from_the_table_is_a_plain_one(tmp_path):
    data = io.BytesIO()
    Image.new("L", (4, 4)).save(data, "BMP")
    for name in ("a.\x1b[2J", "b." + "x" * 300, "c./d", "d"):
        (row,) = read_table(written(tmp_path / "a.parquet", [{"bytes": data.getvalue(), "path": name}]))
        assert row.image.name == "image-000000001.bmp"
