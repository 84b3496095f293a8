"""Shows and measures where the words of a report look in an image: a grid of pictures, a page, and figures."""

from gloria.attention.figure import (
    attention_figure,
    content_words,
    loss_figure,
    save_figure,
    word_attention,
)
from gloria.attention.localization import (
    THRESHOLDS,
    TOLERANCE,
    Localization,
    boxes_mask,
    coverage,
    format_localization,
    localize_rows,
    measure_localization,
)
from gloria.attention.page import attention_page
from gloria.attention.regions import View, regions_view

__all__ = [
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
    "localize_rows",
    "loss_figure",
    "measure_localization",
    "regions_view",
    "save_figure",
    "word_attention",
]
