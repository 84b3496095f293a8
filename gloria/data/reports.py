"""Reports as a training step reads them: their sentences, which of them are read, and ids of equal texts."""

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
    """Return the sentences of a report as the released GLoRIA reads them: lower case, no punctuation, two words or
    more.

    Sentences end at a full stop, and before a number in a list ("1. ..."); whatever is no letter from a to z and no
    digit parts words. The released code also cuts at decimal points, which breaks "2.5 cm" in two; this does not. It
    takes "___", which stands for removed names in MIMIC-CXR, for a word; this leaves it out.
    """
    parts = (part for item in _NUMBERED.split(report) for part in re.split(r"\.(?![0-9])", item))
    return [" ".join(words) for part in parts if len(words := _WORD.findall(part.lower())) > 1]


def text_to_read(report: str, text: Text) -> str:
    """Return what a training step reads of a report.

    Args:
        report: of a row.
        text: "report", as it is; "sentences", all of `sentences_of`, which is the released code's full report; or
            "sentence", one of them, drawn at each reading by torch's generator, which is the released default; or
            "affirmed", one drawn of those that deny nothing, where there are any. A report without a sentence is read
            as it is.

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
    """Return a number that is the same for texts which are equal but for case and blanks: 0 to 2^62."""
    digest = hashlib.blake2b(" ".join(text.casefold().split()).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 2
