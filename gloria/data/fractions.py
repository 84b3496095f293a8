"""Fractions of a labeled table: nested, stratified, seeded, of whole patients, with every class in each."""

import math
import random
from collections import defaultdict
from collections.abc import Sequence

from gloria.data.split import patient_of
from gloria.data.table import Row

# A figure of fewer labels than this depends on which ones were drawn, so it is the mean of several draws.
FEW, DRAWS = 100, 10


def draw_fraction(rows: Sequence[Row], fraction: float, seed: int = 0) -> list[Row]:
    """Draw a part of labeled rows, as a hospital would have it that labels fewer of its patients.

    All rows of a patient are drawn, or none. Of one seed, a smaller fraction is part of every larger one. Patients with
    the same classes form a stratum, and the strata keep their shares as far as whole patients allow. Of every class
    there is a row that has it, and of labels that are 0 or 1 a row that does not.

    Args:
        rows: with `labels` in every one, or with a `label` in every one, which is then its class. An uncertain label,
            -1, is none.
        fraction: share of the rows, above 0 and at most 1. Of N rows it is ceil(fraction N), and a few more where the
            last patient has several.
        seed: another seed, another draw.

    Returns:
        The rows drawn, in the order in which they were given.

    Raises:
        ValueError: a fraction out of range, or too small to hold every class; a row without a label; one class only.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction is {fraction}; expected a share of the rows above 0 and up to 1, such as 0.01")
    patients: dict[tuple[str, int], list[Row]] = defaultdict(list)
    for row in rows:
        patients[patient_of(row)].append(row)
    held = {patient: frozenset().union(*map(_kinds, of_patient)) for patient, of_patient in patients.items()}
    kinds = frozenset().union(*held.values())
    if len(kinds) < 2:
        found = ", ".join(_said(kind) for kind in sorted(kinds)) or "nothing"
        raise ValueError(
            f"the labels of {len(rows)} rows say {found} alone; expected at least two classes, to tell apart"
        )
    wanted = math.ceil(fraction * len(rows) - 1e-9)  # 0.07 * 100 is 7.000000000000001
    drawn: set[tuple[str, int]] = set()
    missing, count = set(kinds), 0
    for patient in _order(held, kinds, random.Random(f"fractions {seed}")):
        if count >= wanted:
            break
        drawn.add(patient)
        missing -= held[patient]
        count += len(patients[patient])
    if missing:
        raise ValueError(
            f"the draw of {wanted} of {len(rows)} rows has none "
            f"{', none '.join(('with ' if value else 'without ') + name for name, value in sorted(missing))}; take a "
            "larger share"
        )
    return [row for row in rows if patient_of(row) in drawn]


def draws_of(labels: int) -> int:
    """Return how many draws a figure of so many labels is the mean of: 10 below 100 labels, else 1."""
    return DRAWS if labels < FEW else 1


def _kinds(row: Row) -> frozenset[tuple[str, int]]:
    """Return what a row shows of the classes: (class, 1), and (class, 0) where its labels say so."""
    kinds = {(name, value) for name, value in row.labels.items() if value in (0, 1)}
    if not kinds and row.label:
        kinds = {(row.label, 1)}
    if not kinds:
        raise ValueError(f"{row.where} has no label; expected labels such as 'Edema=1; Pneumonia=0', or a label")
    return frozenset(kinds)


def _said(kind: tuple[str, int]) -> str:
    name, value = kind
    return name if value else f"without {name}"


def _order(
    held: dict[tuple[str, int], frozenset[tuple[str, int]]], kinds: frozenset[tuple[str, int]], drawing: random.Random
) -> list[tuple[str, int]]:
    """Return all patients so that the first of them, however many, are a stratified draw of whole patients."""
    strata: dict[frozenset[tuple[str, int]], list[tuple[str, int]]] = defaultdict(list)
    for patient in sorted(held):
        strata[held[patient]].append(patient)
    places: dict[tuple[str, int], float] = {}
    for stratum in sorted(strata, key=sorted):
        members = strata[stratum]
        drawing.shuffle(members)
        # Evenly spaced from a start of its own, a stratum has its share of every piece of the order, but for one.
        start = drawing.random()
        places |= {patient: (number + start) / len(members) for number, patient in enumerate(members)}
    order = sorted(places, key=lambda patient: (places[patient], patient))
    first: list[tuple[str, int]] = []
    frequency = {kind: sum(kind in shown for shown in held.values()) for kind in kinds}
    for kind in sorted(kinds, key=lambda kind: (frequency[kind], kind)):  # what shows a rare class often shows others
        if not any(kind in held[patient] for patient in first):
            first.append(next(patient for patient in order if kind in held[patient]))
    leading = set(first)
    return first + [patient for patient in order if patient not in leading]
