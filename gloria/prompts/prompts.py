"""Makes prompts, texts that describe a class: its name, its reports, or phrases built from a vocabulary."""

import random
from collections.abc import Hashable, Iterable, Sequence
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import yaml

from gloria.data import Row
from gloria.data.layouts.chexpert import COMPETITION
from gloria.messages import shown

VOCABULARY = Path(__file__).with_name("chest.yaml")
# Prompts drawn for each class from the phrases of its vocabulary, as many as in the released evaluation.
PER_CLASS = 5
# Most phrases of one class; all are in memory, so that equal ones are drawn once.
MOST_PHRASES = 100_000

Prompts = dict[str, list[str]]


def named_prompts(classes: Iterable[str]) -> Prompts:
    """Use each class's name as its prompt."""
    return {name: [name] for name in classes}


def sampled_prompts(rows: Sequence[Row], count: int = 1, seed: int = 0) -> Prompts:
    """Draw reports of each class from labeled rows.

    Use rows other than those to classify: an image's own report would give its class away.

    Args:
        rows: labeled rows; rows without a label or a report are left out.
        count: reports of each class; all reports of a class that has fewer.
        seed: seed of the draw; the same rows, count and seed give the same prompts.

    Raises:
        ValueError: no row with a label and a report; `count` below 1.
    """
    reports: dict[str, dict[str, None]] = {}
    for row in rows:
        if row.label and row.report:
            reports.setdefault(row.label, {})[row.report] = None
    if not reports:
        raise ValueError("no row has a label and a report; prompts sampled from data need both")
    return {name: _sample(list(of_class), count, f"{seed} {name}") for name, of_class in reports.items()}


def generated_prompts(classes: Sequence[str] = COMPETITION, count: int = PER_CLASS, seed: int = 0) -> Prompts:
    """Draw phrases of severity, subtype and location from the package's vocabulary.

    Args:
        classes: names in the vocabulary, in upper or lower case. Default: the five of the CheXpert competition.
        count: phrases of each class; all phrases of a class that has fewer.
        seed: seed of the draw.

    Raises:
        ValueError: a class that the vocabulary lacks; `count` below 1.
    """
    known = {name.casefold(): prompts for name, prompts in read_prompts(VOCABULARY, count, seed).items()}
    for name in classes:
        if name.casefold() not in known:
            raise ValueError(
                f"the vocabulary of the package has no class {name!r}, only {', '.join(map(repr, known))}; write a "
                "YAML file of prompts for your classes, or take their names as prompts"
            )
    return {name: known[name.casefold()] for name in classes}


def read_prompts(path: str | Path, count: int = PER_CLASS, seed: int = 0) -> Prompts:
    """Read the prompts of a YAML file.

    Each class has a list of texts, or a vocabulary of parts that are combined::

        Pneumonia:                      # `count` draws from all combinations of one entry of each part
          severity: [mild, severe]
          location: [left lower lobe pneumonia, right lower lobe pneumonia]
        Normal:                         # all of them
          - no acute cardiopulmonary process

    The parts are joined with blanks in their order; their names do not matter. An entry "" leaves its part out.

    Args:
        path: the file, UTF-8.
        count: phrases drawn from each vocabulary; all phrases of a vocabulary that has fewer. Lists are not drawn from.
        seed: seed of the draw.

    Raises:
        FileNotFoundError: `path` does not exist.
        ValueError: not YAML; a class that is not text, appears twice, or holds neither list nor vocabulary; an empty
            prompt; parts that make more than `MOST_PHRASES` phrases; `count` below 1.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected a YAML file of prompts for each class")
    try:
        classes = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeyLoader)
    except OSError:
        raise
    except Exception as error:  # on values that look like dates, numbers or bytes, yaml raises any kind of error
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(classes, dict) or not classes:
        raise ValueError(f"{path} holds {shown(classes)}; expected a prompt list or a vocabulary for each class")
    prompts = {}
    for name, given in classes.items():
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"{path} has a class {shown(name)}; expected text: put it in quotes")
        if isinstance(given, dict):
            prompts[name] = _sample(_phrases(f"{path}, {name}", given), count, f"{seed} {name}")
        else:
            prompts[name] = _texts(f"{path}, {name}", given)
            if not all(prompts[name]):
                raise ValueError(f"{path}, {name}: a prompt is empty; expected some words")
    return prompts


class _UniqueKeyLoader(yaml.SafeLoader):
    """Refuses a class that appears twice: its first prompts would be lost silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        met = set()
        for key in (self.construct_object(each, deep=True) for each, _ in node.value):
            if isinstance(key, Hashable):  # others are refused below
                if key in met:
                    raise yaml.constructor.ConstructorError(None, None, f"{shown(key)} appears twice", node.start_mark)
                met.add(key)
        return super().construct_mapping(node, deep)


def _phrases(where: str, parts: dict[Any, Any]) -> list[str]:
    choices = [_texts(f"{where}, {part}", entries) for part, entries in parts.items()]
    count = prod(map(len, choices))
    if count > MOST_PHRASES:
        raise ValueError(
            f"{where}: the parts make {count:,} phrases; expected {MOST_PHRASES:,} at most: leave out entries or a part"
        )
    phrases = list(dict.fromkeys(" ".join(filter(None, chosen)) for chosen in product(*choices)))
    if not all(phrases):
        raise ValueError(f"{where}: every part may be left out, which leaves no words; fill one part")
    return phrases


def _texts(where: str, given: Any) -> list[str]:
    if not isinstance(given, list) or not given or not all(isinstance(entry, str) for entry in given):
        raise ValueError(
            f"{where} is {shown(given)}; expected a list of texts (in quotes where they look like numbers)"
        )
    return [" ".join(entry.split()) for entry in given]


def _sample(texts: list[str], count: int, seed: str) -> list[str]:
    if count < 1:
        raise ValueError(f"count is {count}; expected at least one prompt of each class")
    return random.Random(seed).sample(texts, min(count, len(texts)))
