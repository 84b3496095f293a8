"""Makes one self-contained HTML file: point at a word of a report to see where it looks."""

import base64
from io import BytesIO
from pathlib import Path
from typing import Any

import contourpy
import jinja2
import numpy as np
from PIL import Image

from gloria.attention.figure import SEE_THROUGH, content_words, scale_top, word_attention
from gloria.attention.regions import regions_view
from gloria.images import read_mask, to_rgb
from gloria.modeling import GloriaModel
from gloria.processing import GloriaProcessor

LONGEST_SIDE = 1024  # of the picture in the page: what a screen shows, in about 100 kB
OUTLINE_SIDE = 512  # of the mask that the outline follows, after its edges were softened


def attention_page(
    model: GloriaModel,
    processor: GloriaProcessor,
    image: Any,
    report: str,
    mask: Any = None,
    title: str = "What the words look at",
) -> str:
    """Return a page with the whole image, the report as written, and the attention of the word under the pointer.

    Scale and colors are those of `attention_figure`. The page holds everything it needs, and its content security
    policy forbids requests, so it can be mailed, archived, or opened from a disk.

    Args:
        model: put into evaluation mode while it works.
        processor: processor of the same run.
        image: any single image that the processor takes.
        report: its report, or any other text; a part that the model does not read is marked.
        mask: image of the same size, bright where the finding is; it is outlined. None draws no outline.
        title: line above the report.

    Returns:
        The page, HTML; write it in UTF-8.

    Raises:
        ValueError: a mask whose size differs from the image's.
    """
    picture = to_rgb(image)
    width, height = picture.size
    words, maps = word_attention(model, processor, picture, report)
    content = content_words(words)
    relative = maps * maps[0].size
    top = scale_top(relative[content])
    shown = np.concatenate([relative[content].mean(0, keepdims=True), relative[content]])
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
    )
    return template.render(
        title=title,
        width=width,
        height=height,
        picture=_base64(_jpeg(picture)),
        outline="" if mask is None else _outline(read_mask(mask), width, height),
        text=_report_pieces(processor, report, content),
        colors=np.round(SEE_THROUGH(np.arange(256)) * [255, 255, 255, 1], 3).tolist(),
        data={
            "grid": shown.shape[1:],
            "view": regions_view(model.config, processor.image_processor, width, height, shown.shape[1:]),
            "seen": processor.image_processor.field_of_view(width, height),
            "top": top,
            "peaks": [round(float(each.max()), 2) for each in shown],
            # One byte for each region: 0 is even attention or less, 255 the top of the scale.
            "levels": _base64(np.rint(255 * np.clip((shown - 1) / (top - 1), 0, 1)).astype(np.uint8).tobytes()),
        },
    )


def _report_pieces(processor: GloriaProcessor, report: str, content: list[int]) -> list[tuple[str, int | None]]:
    """Cut the report into (characters, index of the map): None without a map, -1 for a part that the model never read.

    Map 0 is the mean, so that the first of the content words has map 1.
    """
    spans = word_spans(processor, report)
    pieces: list[tuple[str, int | None]] = []
    end = 0
    for index, word in enumerate(content, 1):
        if word >= len(spans):
            break  # the only word of an empty report is [CLS], which has no characters
        start, stop = spans[word]
        pieces += [(report[end:start], None), (report[start:stop], index)]
        end = stop
    read = max([end, *(stop for _, stop in spans)])
    pieces += [(report[end:read], None), (report[read:], -1 if report[read:].strip() else None)]
    return [piece for piece in pieces if piece[0]]


def word_spans(processor: GloriaProcessor, report: str) -> list[tuple[int, int]]:
    """Return start and end of each word of a report, in the order of `word_attention`, without [CLS]."""
    ids = processor(text=report)["word_ids"][0].tolist()
    offsets = processor.tokenizer(
        report, truncation=True, max_length=processor.max_length, return_offsets_mapping=True
    )["offset_mapping"]
    spans: dict[int, tuple[int, int]] = {}
    for word, (start, stop) in zip(ids, offsets, strict=True):
        if word >= 0 and stop > start:  # special pieces have no characters
            spans[word] = (spans.get(word, (start, stop))[0], stop)
    return list(spans.values())


def _outline(mask: np.ndarray, width: int, height: int) -> str:
    """Return the edge of a mask as the path of an SVG in pixels of the image."""
    if mask.shape != (height, width):
        raise ValueError(
            f"mask has {mask.shape[1]} x {mask.shape[0]} pixels and image {width} x {height}; expected equal sizes"
        )
    sides = [max(1, round(side * OUTLINE_SIDE / max(width, height))) for side in (width, height)]
    soft = Image.fromarray(mask).convert("L").resize((sides[0], sides[1]), Image.Resampling.BILINEAR)
    # An empty rim closes the lines at the edge of the picture. A pixel's center lies half a pixel inside.
    rimmed = np.pad(np.asarray(soft, np.float64), 1)
    lines = contourpy.contour_generator(z=rimmed, line_type="Separate").lines(127.5)
    scale = np.array([width, height]) / sides
    return " ".join(
        "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in (np.asarray(line) - 0.5) * scale) + "Z" for line in lines
    )


def _jpeg(picture: Image.Image) -> bytes:
    data = BytesIO()
    picture.save(data, "JPEG", quality=90)
    return data.getvalue()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
