"""Where the words of a report look in an image: as a grid of pictures, as a page, and as figures."""

from gloria.attention.figure import (
    MOST_WORDS,
    PER_ROW,
    SEE_THROUGH,
    attention_figure,
    content_words,
    loss_figure,
    save_figure,
    scale_top,
    word_attention,
)
from gloria.attention.localization import (
    THRESHOLDS,
    TOLERANCE,
    Localization,
    boxes_mask,
    coverage,
    format_localization,
    in_image,
    localize_rows,
    measure_localization,
)
from gloria.attention.page import attention_page, word_spans
from gloria.attention.regions import View, regions_extent, regions_view

__all__ = [
    "MOST_WORDS",
    "PER_ROW",
    "SEE_THROUGH",
    "THRESHOLDS",
    "TOLERANCE",
    "Localization",
    "View",
    "attention_figure",
    "attention_page",
    "boxes_mask",
    "content_words",
    "coverage",
    "format_localization",
    "in_image",
    "localize_rows",
    "loss_figure",
    "measure_localization",
    "regions_extent",
    "regions_view",
    "save_figure",
    "scale_top",
    "word_attention",
    "word_spans",
]
