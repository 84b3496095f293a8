"""Measures how well attention falls on a finding: pointing game, mass inside the mask, and overlap, in image pixels."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from tqdm import tqdm

from gloria.attention.figure import content_words, word_attention
from gloria.attention.regions import View, regions_view
from gloria.data.table import Box, Row
from gloria.images import read_mask, to_rgb
from gloria.modeling import GloriaModel
from gloria.processing import GloriaProcessor

TOLERANCE = 15.0
THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5)


@dataclass(frozen=True)
class Localization:
    """Holds the figures of one attention map against one mask; `*_by_chance` are those of even or random attention.

    Attributes:
        hit: pointing game (Zhang et al., "Top-down Neural Attention by Excitation Backprop", ECCV 2016): the strongest
            attention lies on the mask, or within the tolerance of it.
        hit_by_chance: share of the regions whose center would be a hit.
        mass: share of the attention inside the mask, with each region's attention spread evenly over its area.
        mass_by_chance: share of the visible image that the mask covers, which is the mass of even attention.
        ious: intersection over union of the mask with the pixels whose attention, interpolated bilinearly, is at least
            a share of its maximum, for each of `THRESHOLDS` (those of Boecking et al., "Making the Most of Text
            Semantics to Improve Biomedical Vision-Language Processing", ECCV 2022, who apply them to cosines).
        iou_by_chance: intersection over union of the mask with the visible image.
    """

    hit: bool
    hit_by_chance: float
    mass: float
    mass_by_chance: float
    ious: tuple[float, ...]
    iou_by_chance: float


def measure_localization(
    attention: np.ndarray, mask: np.ndarray, view: View, tolerance: float = TOLERANCE, seen: View | None = None
) -> Localization:
    """Measure one attention map against one mask.

    Args:
        attention: (H, W) over the regions, not negative, not all 0.
        mask: (height, width) bool, in pixels of the image; not all False. A part that the model does not see counts in
            the union, and can be hit only from within the tolerance.
        view: rectangle that the regions cover, see `gloria.attention.regions_view`.
        tolerance: tolerance of the pointing game, in pixels of the image. Default 15, as in its source, which chose it
            for photographs; radiographs are larger.
        seen: rectangle that the model sees, see `GloriaImageProcessor.field_of_view`. Default: `view`.

    Raises:
        ValueError: shapes of another number of dimensions; attention that is negative, not finite or 0 everywhere; an
            empty mask; a negative tolerance.
    """
    if attention.ndim != 2 or mask.ndim != 2:
        raise ValueError(f"attention is {attention.shape} and mask {mask.shape}; expected (H, W) and (height, width)")
    if not (np.isfinite(attention).all() and attention.min() >= 0 and attention.max() > 0):
        raise ValueError("attention is negative, not finite, or 0 everywhere; expected that of one word, or a mean")
    if not mask.any():
        raise ValueError("mask is empty; expected True where the finding is")
    if not tolerance >= 0:
        raise ValueError(f"tolerance is {tolerance}; expected pixels, 0 or more")
    rows, columns = attention.shape
    left, top, right, bottom = view
    xs, ys = left + (right - left) * _centers(columns), top + (bottom - top) * _centers(rows)
    hits = np.array([[_is_near(mask, x, y, tolerance) for x in xs] for y in ys])
    covered = coverage(mask, view, (rows, columns))
    drawn, in_sight = in_image(attention, view, mask.shape, seen)
    return Localization(
        hit=bool(hits.flat[attention.argmax()]),
        hit_by_chance=float(hits.mean()),
        mass=float((attention * covered).sum() / attention.sum()),
        mass_by_chance=float(covered.mean()),
        ious=tuple(_iou(in_sight & (drawn >= share * attention.max()), mask) for share in THRESHOLDS),
        iou_by_chance=_iou(in_sight, mask),
    )


def in_image(
    attention: np.ndarray, view: View, shape: tuple[int, ...], seen: View | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Interpolate attention bilinearly between the centers of the regions, at the pixels of an image.

    Args:
        attention: (H, W) over the regions.
        view: rectangle that the regions cover, see `gloria.attention.regions_view`.
        shape: (height, width) of the image.
        seen: rectangle that the model sees, see `GloriaImageProcessor.field_of_view`. Default: `view`.

    Returns:
        (height, width) floating point, 0 outside the visible part; and (height, width) bool, True inside it.
    """
    left, top, right, bottom = view
    first_column, first_row, last_column, last_row = seen or view
    rows_seen, columns_seen = _within(shape[0], first_row, last_row), _within(shape[1], first_column, last_column)
    down = _interpolation_weights(shape[0], top, bottom, attention.shape[0]) * rows_seen[:, None]
    across = _interpolation_weights(shape[1], left, right, attention.shape[1]) * columns_seen[:, None]
    return down @ attention @ across.T, np.outer(rows_seen, columns_seen)


def coverage(mask: np.ndarray, view: View, grid: tuple[int, int]) -> np.ndarray:
    """Return the share of each region's area that a mask covers, exact to parts of a pixel; padding is never covered.

    Args:
        mask: (height, width) bool, in pixels of the image.
        view: rectangle that the regions cover, see `gloria.attention.regions_view`.
        grid: rows and columns of regions.

    Returns:
        (rows, columns) floating point, 0 to 1.
    """
    left, top, right, bottom = view
    down = _overlap_lengths(mask.shape[0], np.linspace(top, bottom, grid[0] + 1))
    across = _overlap_lengths(mask.shape[1], np.linspace(left, right, grid[1] + 1))
    area = (right - left) * (bottom - top) / (grid[0] * grid[1])
    return down @ mask @ across.T / area


def boxes_mask(boxes: Iterable[Box], width: int, height: int) -> np.ndarray:
    """Return the union of boxes as a mask (height, width) bool: the pixels whose center lies in a box.

    Args:
        boxes: left, top, width, height of each, as in `gloria.data.Row.boxes`, in pixels of the image, continuous as
            in `field_of_view`.
        width: width of the image in pixels.
        height: height of the image in pixels.

    Raises:
        ValueError: a box without width or height.
    """
    mask = np.zeros((height, width), bool)
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    for box in boxes:
        left, top, across, down = box
        if not (across > 0 and down > 0):
            raise ValueError(f"a box is {box}; expected left, top, width, height, the latter two above 0")
        mask |= np.outer((top <= y) & (y < top + down), (left <= x) & (x < left + across))
    return mask


def localize_rows(
    model: GloriaModel,
    processor: GloriaProcessor,
    rows: Sequence[Row],
    text: Literal["report", "label"] = "report",
    tolerance: float = TOLERANCE,
    progress: bool = False,
) -> Iterator[tuple[Row, Localization]]:
    """Measure the mean attention of a row's words against its mask, or against its boxes if it has no mask.

    Rows with neither, or with an empty mask, are left out.

    Args:
        model: put into evaluation mode while it works.
        processor: processor of the same run.
        rows: rows of `read_table`.
        text: text to read: the report, or the label, which names the finding. Punctuation and [CLS] do not count.
        tolerance: see `measure_localization`.
        progress: show a progress bar, on a terminal.

    Raises:
        ValueError: a mask whose size differs from its image's; an unreadable image or mask; with `text` "label", a row
            without a label.
    """
    for row in tqdm(rows, desc="localizing", unit="row", disable=None if progress else True, leave=False):
        if row.mask is None and not row.boxes:
            continue
        try:
            image = to_rgb(row.image)
            mask = boxes_mask(row.boxes, image.width, image.height) if row.mask is None else read_mask(row.mask)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{row.where}: {error}") from error
        if mask.shape != (image.height, image.width):
            raise ValueError(
                f"line {row.line}: the mask {row.mask} has {mask.shape[1]} x {mask.shape[0]} pixels and its image "
                f"{image.width} x {image.height}; expected equal sizes"
            )
        if not mask.any():
            continue
        read = row.report if text == "report" else row.label
        if not read:
            raise ValueError(f"line {row.line}: the {text} is empty; expected words to localize")
        words, maps = word_attention(model, processor, image, read)
        size = image.width, image.height
        view = regions_view(model.config, processor.image_processor, *size, maps.shape[1:])
        seen = processor.image_processor.field_of_view(*size)
        yield row, measure_localization(maps[content_words(words)].mean(0), mask, view, tolerance, seen)


def format_localization(found: Sequence[tuple[Row, Localization]]) -> str:
    """Format the means in percent, a line for each label and one for all, with chance beside each figure."""
    groups: dict[str, list[Localization]] = {}
    for row, each in found:
        groups.setdefault(row.label or "-", []).append(each)
    if len(groups) > 1:
        groups["all"] = [each for _, each in found]
    lines = [
        f"{'':<26}{'rows':>5}  {'pointing':>8} {'chance':>6}  {'mass':>6} {'chance':>6}  {'mean IoU':>8} {'chance':>6}"
    ]
    for label, values in groups.items():
        means = [
            100 * float(np.mean(column))
            for column in zip(
                *((v.hit, v.hit_by_chance, v.mass, v.mass_by_chance, np.mean(v.ious), v.iou_by_chance) for v in values),
                strict=True,
            )
        ]
        figures = "  {:>8.1f} {:>6.1f}  {:>6.1f} {:>6.1f}  {:>8.1f} {:>6.1f}".format(*means)
        lines.append(f"{label[:25]:<26}{len(values):>5}{figures}")
    return "\n".join(lines)


def _centers(count: int) -> np.ndarray:
    return (np.arange(count) + 0.5) / count


def _is_near(mask: np.ndarray, x: float, y: float, tolerance: float) -> bool:
    """Return whether a pixel of the mask, as a square, lies within the tolerance of a point."""
    # Pixel n reaches from n to n + 1; a pixel that only touches is near.
    first_row, first_column = (max(0, int(np.ceil(center - tolerance)) - 1) for center in (y, x))
    last_row, last_column = (int(np.floor(center + tolerance)) for center in (y, x))
    around = mask[first_row : max(0, last_row + 1), first_column : max(0, last_column + 1)]
    rows, columns = np.nonzero(around)
    if not rows.size:
        return False
    down = np.maximum(np.abs(rows + first_row + 0.5 - y) - 0.5, 0)
    across = np.maximum(np.abs(columns + first_column + 0.5 - x) - 0.5, 0)
    return bool(np.hypot(down, across).min() <= tolerance)


def _iou(marked: np.ndarray, mask: np.ndarray) -> float:
    return float((marked & mask).sum() / (marked | mask).sum())


def _within(pixels: int, first: float, last: float) -> np.ndarray:
    """Return which pixels have their center between two points, (pixels,) bool."""
    centers = np.arange(pixels) + 0.5
    return (first <= centers) & (centers < last)


def _interpolation_weights(pixels: int, first: float, last: float, regions: int) -> np.ndarray:
    """Return weights (pixels, regions) of linear interpolation at the pixels' centers, constant at both ends."""
    position = np.clip((np.arange(pixels) + 0.5 - first) / (last - first) * regions - 0.5, 0, regions - 1)
    return np.maximum(0, 1 - np.abs(position[:, None] - np.arange(regions)))


def _overlap_lengths(pixels: int, edges: np.ndarray) -> np.ndarray:
    """Return the length (regions, pixels) of each pixel, one wide, that lies between neighboring edges."""
    start = np.arange(pixels)
    return np.clip(np.minimum(edges[1:, None], start + 1) - np.maximum(edges[:-1, None], start), 0, None)
