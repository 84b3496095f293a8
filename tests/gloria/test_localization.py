"""Localization: synthetic attention lands where it was put, and every figure equals one counted by hand."""

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import ResNetConfig
from typer.testing import CliRunner

from gloria import GloriaConfig, GloriaImageProcessor, GloriaModel
from gloria.attention import (
    THRESHOLDS,
    boxes_mask,
    content_words,
    coverage,
    format_localization,
    localize_rows,
    measure_localization,
    regions_view,
    word_attention,
)
from gloria.attention.localization import in_image
from gloria.cli import app
from gloria.data import Row, read_table, write_phantoms
from gloria.images import read_mask
from gloria.small import small_model

WHOLE = (0.0, 0.0, 40.0, 40.0)  # regions of 10 pixels in a 4 x 4 grid


def square(size=40, top=10, left=20, side=10):
    mask = np.zeros((size, size), bool)
    mask[top : top + side, left : left + side] = True
    return mask


def at(row, column, grid=(4, 4)):
    attention = np.zeros(grid)
    attention[row, column] = 1
    return attention


@settings(max_examples=20)
@given(st.integers(20, 400), st.integers(20, 400), st.sampled_from([(64, None), (75, 75), (299, None), (50, 91)]))
def test_the_field_of_view_is_that_of_the_pixels(width, height, sizes):
    """A gradient along each axis is read back from the pixels at the coordinates that the field of view claims."""
    crop, size = sizes
    processor = GloriaImageProcessor(size=size, crop_size=crop, image_mean=[0] * 3, image_std=[1] * 3)
    left, top, right, bottom = processor.field_of_view(width, height)
    for axis, (first, last, side) in enumerate([(left, right, width), (top, bottom, height)]):
        ramp = np.linspace(0, 1, side, dtype=np.float32)  # at the pixel centers 0.5 ... side - 0.5
        image = np.broadcast_to(ramp if axis == 0 else ramp[:, None], (height, width))
        seen = processor(image, return_tensors="np")["pixel_values"][0, 0]
        seen = seen[crop // 2] if axis == 0 else seen[:, crop // 2]
        claimed = first + (np.arange(crop) + 0.5) / crop * (last - first)
        margin = max(1.0, (last - first) / crop)  # at the edges the filter is cut off
        inside = (claimed > margin) & (claimed < side - margin)
        outside = (claimed < 0) | (claimed > side)
        assert (seen[outside] == 0).all()
        # Two roundings to 8 bits, of standard deviation 0.29 steps each, say little of one pixel and much of a mean.
        # Of some sides they change the ramp alike all along, by 0.34 steps at most in 20,000 halves of random sizes.
        # Half a pixel more or less would show in four of five.
        step = (side - 1) / 255
        read = seen * (side - 1) + 0.5
        for half in np.array_split(np.flatnonzero(inside), 2):
            if half.size > 15:
                assert abs(np.mean(read[half] - claimed[half])) < 0.02 + step * (0.5 + 4 * 0.41 / np.sqrt(half.size))


def test_a_pixel_lit_in_the_image_is_lit_where_the_mapping_says():
    """End to end: the brightest region of an average-pooled input, taken back to the image, covers the lit block."""
    processor = GloriaImageProcessor(crop_size=64, image_mean=[0] * 3, image_std=[1] * 3)
    for width, height in [(200, 200), (300, 170), (123, 321)]:
        left, top, right, bottom = processor.field_of_view(width, height)
        for x, y in [(0.3, 0.4), (0.6, 0.7), (0.5, 0.25)]:
            column, row = int(left + x * (right - left)), int(top + y * (bottom - top))
            image = np.zeros((height, width), np.uint8)
            image[row : row + 2, column : column + 2] = 255
            pixels = processor(image, return_tensors="pt")["pixel_values"][:, :1]
            regions = torch.nn.functional.avg_pool2d(pixels, 4)[0, 0].numpy().astype(float)
            found = measure_localization(
                regions, image > 0, (left, top, right, bottom), tolerance=0.75 * (right - left) / 16
            )
            assert found.hit
            drawn, seen = in_image(regions, (left, top, right, bottom), image.shape)
            assert seen[row, column]
            center = (drawn * (np.indices(drawn.shape) + 0.5)).sum((1, 2)) / drawn.sum()
            assert np.abs(center - [row + 1, column + 1]).max() < (right - left) / 32 + 1  # half a region, and its rim


def test_attention_on_the_finding():
    found = measure_localization(at(1, 2), square(), WHOLE, tolerance=0)
    assert found.hit
    assert found.hit_by_chance == 1 / 16
    assert found.mass == pytest.approx(1)
    assert found.mass_by_chance == pytest.approx(1 / 16)
    assert found.iou_by_chance == pytest.approx(1 / 16)
    # Bilinear between centers: a pyramid over 2 x 2 regions, of which what is at or above each share is counted.
    slope = np.maximum(0, 1 - np.abs((np.arange(40) + 0.5) / 10 - np.array([[1.5], [2.5]])))
    pyramid = np.outer(*slope)
    for share, iou in zip(THRESHOLDS, found.ious, strict=True):
        marked = pyramid >= share
        assert iou == (marked & square()).sum() / (marked | square()).sum()


def test_attention_beside_the_finding():
    found = measure_localization(at(3, 0), square(), WHOLE, tolerance=0)
    assert not found.hit
    assert found.mass == 0
    assert max(found.ious) == 0


@pytest.mark.parametrize(("tolerance", "hit"), [(0, False), (14.9, False), (15.0, True), (40, True)])
def test_the_tolerance_is_in_pixels_from_the_edge_of_the_mask(tolerance, hit):
    """The center of region (1, 0) is (5, 15); the mask begins at x = 20."""
    assert measure_localization(at(1, 0), square(), WHOLE, tolerance).hit is hit


def test_the_tolerance_is_a_distance_not_a_square():
    """From (35, 35) to the corner (30, 20) of the mask: hypot(5, 15)."""
    corner = np.hypot(5, 15)
    assert not measure_localization(at(3, 3), square(), WHOLE, corner - 0.01).hit
    assert measure_localization(at(3, 3), square(), WHOLE, corner + 0.01).hit


def test_chance_of_the_pointing_game_counts_regions():
    found = measure_localization(at(0, 0), square(), WHOLE, tolerance=5)
    # Centers at 5, 15, 25, 35: the region's own, and its four neighbors' at a distance of 5; diagonal ones at 7.07.
    assert found.hit_by_chance == 5 / 16


def test_coverage_is_exact_to_parts_of_a_pixel():
    mask = square(size=8, top=2, left=2, side=3)
    view = (-1.0, 0.5, 7.0, 6.5)  # padding on the left, a cut at the right, edges within pixels
    fine = np.kron(mask, np.ones((10, 10)))  # ten parts of a pixel, so that every edge falls between two
    fine = np.pad(fine, ((0, 0), (10, 0)))  # the padding
    window = fine[5:65, 0:80]
    expected = window.reshape(3, 20, 4, 20).mean((1, 3))
    np.testing.assert_allclose(coverage(mask, view, (3, 4)), expected, atol=1e-12)


@given(st.integers(2, 9), st.integers(2, 9), st.integers(0, 10**6))
def test_even_attention_gets_what_chance_gets(rows, columns, seed):
    random = np.random.default_rng(seed)
    mask = random.random((37, 53)) < 0.2
    view = (-4.3, 2.1, 50.9, 30.2)
    found = measure_localization(np.full((rows, columns), 0.25), mask, view)
    assert found.mass == pytest.approx(found.mass_by_chance)
    assert found.ious == (found.iou_by_chance,) * len(THRESHOLDS)


@given(st.integers(0, 10**6))
def test_mirrored_attention_on_a_mirrored_mask_is_the_same(seed):
    random = np.random.default_rng(seed)
    attention, mask = random.random((5, 7)), random.random((37, 53)) < 0.1
    left, top, right, bottom = view = (-4.25, 2.125, 50.625, 30.25)
    mirrored = (53 - right, top, 53 - left, bottom)
    one, other = (
        measure_localization(attention, mask, view),
        measure_localization(attention[:, ::-1], mask[:, ::-1], mirrored),
    )
    assert one.hit == other.hit
    assert one.hit_by_chance == pytest.approx(other.hit_by_chance)
    assert one.mass == pytest.approx(other.mass)
    assert one.ious == pytest.approx(other.ious)


def test_a_finding_out_of_sight_is_missed():
    found = measure_localization(at(0, 0), square(), (0.0, 0.0, 10.0, 10.0), tolerance=0)
    assert (found.hit, found.mass, max(found.ious), found.mass_by_chance) == (False, 0, 0, 0)


def test_drawn_attention_is_zero_where_the_model_does_not_see():
    drawn, seen = in_image(np.ones((2, 2)), (10.0, 0.0, 30.0, 20.0), (40, 40))
    assert seen.sum() == 400
    assert seen[:20, 10:30].all()
    assert np.array_equal(drawn, seen.astype(float))


def test_boxes_are_masks():
    assert np.array_equal(boxes_mask([(20, 10, 10, 10)], 40, 40), square())
    both = boxes_mask([(0, 0, 2, 1), (1.4, 0.6, 1.6, 2.4)], 4, 3)
    assert np.array_equal(both, np.array([[1, 1, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0]], bool))
    with pytest.raises(
        ValueError, match=r"a box is \(3, 0, 0, 1\); expected left, top, width, height, the latter two above 0"
    ):
        boxes_mask([(3, 0, 0, 1)], 4, 4)


@pytest.mark.parametrize(
    ("attention", "mask", "tolerance", "message"),
    [
        (np.ones(4), square(), 0, r"attention is \(4,\) and mask \(40, 40\); expected \(H, W\)"),
        (np.full((4, 4), np.nan), square(), 0, "attention is negative, not finite, or 0 everywhere"),
        (-at(0, 0), square(), 0, "attention is negative"),
        (np.zeros((4, 4)), square(), 0, "0 everywhere"),
        (at(0, 0), np.zeros((40, 40), bool), 0, "mask is empty; expected True where the finding is"),
        (at(0, 0), square(), -1, "tolerance is -1; expected pixels, 0 or more"),
    ],
)
def test_what_cannot_be_measured_is_refused(attention, mask, tolerance, message):
    with pytest.raises(ValueError, match=message):
        measure_localization(attention, mask, WHOLE, tolerance)


@pytest.mark.parametrize("bright", [1, 200, 255])
def test_masks_are_bright_however_bright(bright):
    assert np.array_equal(read_mask((square() * bright).astype(np.uint8)), square())
    assert not read_mask(np.zeros((4, 4), np.uint8)).any()


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_phantoms(tmp_path_factory.mktemp("phantoms"), 10, size=64)


@pytest.fixture(scope="module")
def run(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    model, processor = small_model([row.report for row in read_table(table)])
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model, processor, folder


def test_rows_are_measured_on_the_mean_of_their_words(table, run):
    model, processor, _ = run
    rows = read_table(table)
    found = list(localize_rows(model, processor, rows))
    assert [row.line for row, _ in found] == list(range(3, 12))  # the first phantom has nothing to find
    row, figures = found[3]
    words, maps = word_attention(model, processor, row.image, row.report)
    view = regions_view(model.config, processor.image_processor, 64, 64, maps.shape[1:])
    seen = processor.image_processor.field_of_view(64, 64)
    assert figures == measure_localization(maps[content_words(words)].mean(0), read_mask(row.mask), view, seen=seen)
    by_label = dict(localize_rows(model, processor, rows, text="label"))[row]
    words, maps = word_attention(model, processor, row.image, row.label)
    assert by_label == measure_localization(maps.mean(0), read_mask(row.mask), view, seen=seen)


def test_boxes_stand_where_there_is_no_mask(table, run):
    model, processor, _ = run
    boxed = [replace(row, mask=None, boxes=((10, 12, 20, 30),)) for row in read_table(table)[:2]]
    (_, figures), _ = localize_rows(model, processor, boxed)
    words, maps = word_attention(model, processor, boxed[0].image, boxed[0].report)
    view = regions_view(model.config, processor.image_processor, 64, 64, maps.shape[1:])
    seen = processor.image_processor.field_of_view(64, 64)
    mask = square(64, 12, 10, 20) | square(64, 22, 10, 20)
    assert figures == measure_localization(maps[content_words(words)].mean(0), mask, view, seen=seen)


def test_figures_in_the_table_are_means_in_percent(table, run):
    model, processor, _ = run
    found = list(localize_rows(model, processor, read_table(table)))
    lines = format_localization(found).splitlines()
    assert [line[:26].strip() for line in lines[1:-1]] == [row.label for row, _ in found]
    last = lines[-1].split()
    assert last[:2] == ["all", "9"]
    assert float(last[2]) == pytest.approx(100 * np.mean([each.hit for _, each in found]), abs=0.05)
    assert float(last[6]) == pytest.approx(100 * np.mean([each.ious for _, each in found]), abs=0.05)
    assert format_localization([(Row(2, None, ""), found[0][1])]).splitlines()[1].startswith("- ")


def test_a_mask_of_another_size_is_refused(run, tmp_path):
    model, processor, _ = run
    Image.new("L", (20, 30)).save(tmp_path / "image.png")
    Image.new("L", (20, 20)).save(tmp_path / "mask.png")
    row = Row(7, tmp_path / "image.png", "Words.", mask=tmp_path / "mask.png")
    with pytest.raises(ValueError, match=r"line 7: the mask .* has 20 x 20 pixels and its image 20 x 30; expected"):
        list(localize_rows(model, processor, [row]))


def test_what_cannot_be_read_is_named(run, tmp_path):
    model, processor, _ = run
    Image.new("L", (20, 20), 255).save(tmp_path / "image.png")
    for image, mask in (("none.png", "image.png"), ("image.png", "none.png")):
        row = Row(9, tmp_path / image, "Words.", mask=tmp_path / mask)
        with pytest.raises(ValueError, match=r"line 9: \S*none\.png cannot be read as an image"):
            list(localize_rows(model, processor, [row]))


def test_the_command(table, run, tmp_path):
    *_, folder = run
    arguments = ["localize", str(folder), str(table), "--cpu", "--tolerance", "4", "--out", str(tmp_path / "rows.csv")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "findings of 9 rows with a mask or box, of 10" in result.output
    assert "pointing game within 4 pixels" in result.output
    with (tmp_path / "rows.csv").open() as file:
        written = list(csv.DictReader(file))
    assert [row["line"] for row in written] == [str(line) for line in range(3, 12)]
    all_line = next(line for line in result.output.splitlines() if line.startswith("all "))
    mass = 100 * np.mean([float(row["mass"]) for row in written])
    assert float(all_line.split()[4]) == pytest.approx(mass, abs=0.05)
    assert {"hit_by_chance", "iou_at_0.1", "iou_at_0.5"} <= set(written[0])
    refused = CliRunner().invoke(app, [*arguments[:3], "--out", str(table)])
    assert refused.exit_code == 2
    assert refused.output == f"gloria: --out is {table}, a file that is read; name another file\n"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("", "names no mask and no box; expected a column mask or boxes"),
        (",mask", "are empty; expected bright pixels where the finding is"),
    ],
)
def test_a_table_without_findings_is_refused(run, tmp_path, columns, message):
    Image.new("L", (20, 20)).save(tmp_path / "image.png")
    cells = ",image.png" if columns else ""
    (tmp_path / "table.csv").write_text(f"image,report{columns}\nimage.png,Words.{cells}\n")
    result = CliRunner().invoke(app, ["localize", str(run[2]), str(tmp_path / "table.csv"), "--cpu"])
    assert result.exit_code == 2
    assert message in result.output


def test_a_label_to_read_must_be_there(run, tmp_path):
    model, processor, _ = run
    Image.new("L", (20, 20), 255).save(tmp_path / "image.png")
    row = Row(5, tmp_path / "image.png", "Words.", mask=tmp_path / "image.png")
    with pytest.raises(ValueError, match="line 5: the label is empty; expected words to localize"):
        list(localize_rows(model, processor, [row], text="label"))


def test_a_region_is_where_a_resnet_looks_from():
    """The gradient of a region of a ResNet whose weights are alike is centered on the region's center."""
    layers = {"embedding_size": 4, "hidden_sizes": [4, 4, 4, 4], "depths": [1, 1, 1, 1], "layer_type": "basic"}
    model = small_model(["Words of a report."])[0]
    config = GloriaConfig(ResNetConfig(**layers), model.config.text_config, projection_dim=8, last_layers=2)
    encoder = GloriaModel(config).eval().double()
    for weight in (*encoder.image_encoder.parameters(), *encoder.region_projection.parameters()):
        torch.nn.init.constant_(weight, 0.1)
    for pool in (each for each in encoder.image_encoder.modules() if isinstance(each, torch.nn.MaxPool2d)):
        pool.forward = torch.nn.AvgPool2d(pool.kernel_size, pool.stride, pool.padding).forward  # smooth
    pixels = torch.rand(1, 3, 299, 299, dtype=torch.float64, requires_grad=True)
    regions = encoder.get_image_features(pixels)[1]
    grid = regions.shape[-2:] if regions.dim() == 4 else (round(regions.shape[1] ** 0.5),) * 2
    assert grid == (19, 19)
    region = regions.flatten(2).transpose(1, 2)[0] if regions.dim() == 4 else regions[0]
    (gradient,) = torch.autograd.grad(region[9 * 19 + 6].sum(), pixels)
    weight = gradient.abs().sum((0, 1))
    left, top, right, bottom = regions_view(config, GloriaImageProcessor(342, 299), 342, 342, grid)
    centers = np.arange(299) + 0.5 + 21  # of the crop, in pixels of the image
    found = [float((weight.sum(axis).numpy() * centers).sum() / weight.sum()) for axis in (1, 0)]
    assert found == pytest.approx([top + 9.5 * (bottom - top) / 19, left + 6.5 * (right - left) / 19], abs=0.3)
