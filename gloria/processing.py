"""GloriaProcessor: turns images and reports into the tensors that GloriaModel takes, with the word of each piece."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
from transformers import (
    AutoImageProcessor,
    AutoProcessor,
    AutoTokenizer,
    BatchEncoding,
    BatchFeature,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)

from gloria.configuration import GloriaConfig
from gloria.images import GloriaImageProcessor


class GloriaProcessor(ProcessorMixin):
    """Wraps an image processor and a tokenizer.

    The tokenizer splits words into pieces. With BERT's tokenizer a word stands between blanks, or is one punctuation
    mark: the released code gets the same words when it merges "##" pieces. [CLS] is word 0, and the report's words
    follow; [SEP] and padding belong to no word, as in the released training. Punctuation stays. The released data
    loader removes it from the reports beforehand; here the caller decides.

    Args:
        image_processor: a [`GloriaImageProcessor`].
        tokenizer: a fast tokenizer: slow ones do not tell which word a piece belongs to.
        max_length: most word pieces of a report, [CLS] and [SEP] included; longer reports are cut. Default 97,
            released ("word_num").

    Raises:
        TypeError: an image processor of another class; a tokenizer that is not fast.
        ValueError: `max_length` below 3 (no room for a word) or beyond what the tokenizer's model reads.
    """

    def __init__(
        self, image_processor: GloriaImageProcessor, tokenizer: PreTrainedTokenizerBase, max_length: int = 97
    ) -> None:
        super().__init__(image_processor, tokenizer)
        self.max_length = max_length
        if not isinstance(image_processor, GloriaImageProcessor):
            raise TypeError(f"image_processor is a {type(image_processor).__name__}; expected a GloriaImageProcessor")
        if not tokenizer.is_fast:
            raise TypeError(
                f"tokenizer is a {type(tokenizer).__name__}, which does not tell the word of a piece; expected a fast "
                "one, as AutoTokenizer.from_pretrained(...) gives where there is a tokenizer.json"
            )
        self._check_length(max_length)

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        *,
        max_length: int | None = None,
        padding: bool | str = True,
        return_tensors: str | None = "pt",
    ) -> BatchFeature:
        """Prepare images, reports, or both.

        Args:
            images: one image or a sequence of them, see `GloriaImageProcessor.preprocess`.
            text: one report or a sequence of them. An empty report is the one word [CLS].
            max_length: most word pieces of a report in this call. Default: the processor's.
            padding: True pads to the longest report of the batch, "max_length" to `max_length`.
            return_tensors: "pt", "np", or None for lists.

        Returns:
            BatchFeature. For images: pixel_values (B, 3, H, W) float32. For text, each (B, L) int64: input_ids,
            attention_mask, token_type_ids if the tokenizer has them, and word_ids, the index of the word that each
            piece belongs to, -1 for [SEP] and padding. A single image or report is a batch of one.

        Raises:
            TypeError: `text` holds something other than strings.
            ValueError: neither images nor text; an unreadable image.
        """
        if images is None and text is None:
            raise ValueError("images and text are both None; give at least one of them")
        data: dict[str, Any] = {}
        if images is not None:
            data.update(self.image_processor(images, return_tensors=return_tensors))
        if text is not None:
            data.update(self._tokens(text, self.max_length if max_length is None else max_length, padding))
        return BatchFeature(data, tensor_type=return_tensors)

    def words(self, input_ids: Any, word_ids: Any) -> list[list[str]]:
        """Return the words as strings, one list per report, in the order of the model's `word_embeds`.

        Args:
            input_ids: (B, L) integers as tensor, array or list, as a call returns them.
            word_ids: (B, L) integers as a call returns them.
        """
        reports = []
        for pieces, ids in zip(np.asarray(input_ids), np.asarray(word_ids), strict=True):
            tokens = self.tokenizer.convert_ids_to_tokens(pieces.tolist())
            by_word = groupby(zip(ids, tokens, strict=True), key=lambda pair: pair[0])
            grouped = [[token for _, token in group] for word, group in by_word if word >= 0]
            reports.append([self.tokenizer.convert_tokens_to_string(group) for group in grouped])
        return reports

    @property
    def model_input_names(self) -> list[str]:
        """Names of the tensors that a call returns and `GloriaModel.forward` takes."""
        return ["pixel_values", *self.tokenizer.model_input_names, "word_ids"]

    @classmethod
    def _get_arguments_from_pretrained(cls, pretrained_model_name_or_path: str, *args: Any, **kwargs: Any) -> list[Any]:
        # The base class asks AutoImageProcessor, which some releases of transformers refuse to use without torchvision.
        return [
            GloriaImageProcessor.from_pretrained(pretrained_model_name_or_path, **kwargs),
            AutoTokenizer.from_pretrained(pretrained_model_name_or_path, **kwargs),
        ]

    def _check_length(self, max_length: int) -> None:
        if not 3 <= max_length <= self.tokenizer.model_max_length:
            raise ValueError(
                f"max_length is {max_length}; expected 3 (room for one word) to {self.tokenizer.model_max_length} "
                "(what the tokenizer's model reads) word pieces"
            )

    def _tokens(self, text: str | Sequence[str], max_length: int, padding: bool | str) -> dict[str, Any]:
        self._check_length(max_length)
        reports = [text] if isinstance(text, str) else list(text)
        if not reports:
            raise ValueError("text is empty; expected one report or more")
        for position, report in enumerate(reports):
            if not isinstance(report, str):
                raise TypeError(f"text[{position}] is {report!r}; expected a string")
        encoding = self.tokenizer(reports, truncation=True, max_length=max_length, padding=padding)
        word_ids = [_word_ids(encoding, row, self.tokenizer.cls_token_id) for row in range(len(reports))]
        return {**encoding, "word_ids": word_ids}


def _word_ids(encoding: BatchEncoding, row: int, cls_token_id: int | None) -> list[int]:
    """Return the word index of each piece of a report; [CLS] counts as a word, other special pieces get -1."""
    words: list[int | None] = encoding.word_ids(row)
    pieces = encoding["input_ids"][row]
    if cls_token_id in pieces:
        words[pieces.index(cls_token_id)] = -1
    ids, next_id = [], 0
    for word, group in groupby(words):
        count = len(list(group))
        ids += [-1 if word is None else next_id] * count
        next_id += word is not None
    return ids


AutoProcessor.register(GloriaConfig, GloriaProcessor, exist_ok=True)
AutoImageProcessor.register(GloriaConfig, slow_image_processor_class=GloriaImageProcessor, exist_ok=True)
