"""Prepares reports for a training step: their sentences, the part to read, and ids of equal texts."""

import hashlib
import re
from collections.abc import Sequence
from typing import Literal, get_args

import torch

Text = Literal["report", "sentences", "sentence", "affirmed"]
TEXTS: tuple[Text, ...] = get_args(Text)
# What is read of a report in an evaluation, which would be another one each time if it were drawn.
UNDRAWN: dict[Text, Text] = {"sentence": "sentences", "affirmed": "sentences"}
# A sentence with one of these says that something is absent, or as it should be.
_DENYING = {"no", "not", "without", "negative", "normal", "clear", "unremarkable"}

_NUMBERED = re.compile(r"(?<![\w.])[0-9]+\.(?![0-9])")
_WORD = re.compile(r"[a-z0-9]+(?:\.[0-9]+)*")


def sentences_of(report: str) -> list[str]:
    """Return the sentences of at least two words as the released GLoRIA reads them: lower case, no punctuation.

    A sentence ends at a period, and before a number of a list ("1. ..."); any character but a to z and digits separates
    words. There are two differences: the released code cuts "2.5 cm" at the decimal point, and it counts "___", which
    stands for removed names in MIMIC-CXR, as a word.
    """
    parts = (part for item in _NUMBERED.split(report) for part in re.split(r"\.(?![0-9])", item))
    return [" ".join(words) for part in parts if len(words := _WORD.findall(part.lower())) > 1]


def text_to_read(report: str, text: Text) -> str:
    """Return the part of a report that a training step reads.

    Args:
        report: report of a row.
        text: "report", unchanged; "sentences", all of `sentences_of`, the released code's full report; "sentence",
            one of them, which torch's generator draws each time, the released default; or "affirmed", one drawn of
            those that deny nothing, if there are any. A report without sentences stays unchanged.

    Raises:
        ValueError: another text.
    """
    if text not in TEXTS:
        raise ValueError(f"text is {text!r}; expected one of {', '.join(map(repr, TEXTS))}")
    sentences: Sequence[str] = [] if text == "report" else sentences_of(report)
    if not sentences:
        return report
    if text == "sentences":
        return " ".join(sentences)
    if text == "affirmed":
        sentences = [each for each in sentences if not _DENYING & {*each.split()}] or sentences
    return sentences[int(torch.randint(len(sentences), ()))]


def text_id(text: str) -> int:
    """Return a number from 0 to 2^62, the same for texts that differ only in case and blanks."""
    digest = hashlib.blake2b(" ".join(text.casefold().split()).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 2
