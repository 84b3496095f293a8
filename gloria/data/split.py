"""Splits rows into rows to train on and rows to hold out, with no patient in both."""

import random
from collections.abc import Sequence

from gloria.data.table import Row

# The released code's data sets and the common hubs name the held-out part differently.
TRAINING = ("train", "training")
VALIDATION = ("val", "valid", "validate", "validation", "dev")
TEST = ("test", "held_out", "heldout")


def split_rows(rows: Sequence[Row], held_out: float = 0.2, seed: int = 0) -> tuple[list[Row], list[Row]]:
    """Split rows into rows to train on and rows to evaluate on, with no patient in both.

    A split column decides if there is one: training rows, and validation rows (or test rows if there are none).
    Otherwise patients are drawn. A row without a patient counts as its own patient.

    Args:
        rows: rows of `read_table`.
        held_out: share of the patients to evaluate on, if they are drawn.
        seed: seed of the draw; the same rows and seed give the same split.

    Returns:
        (training rows, held-out rows), each in the order of the file.

    Raises:
        ValueError: `held_out` outside (0, 1); fewer than two patients; a split column with unknown words, gaps, an
            empty side, or a patient on both sides.
    """
    if any(row.split for row in rows):
        return _split_by_column(rows)
    if not 0 < held_out < 1:
        raise ValueError(f"held_out is {held_out}; expected a share of the patients between 0 and 1, such as 0.2")
    patients = sorted({patient_of(row) for row in rows})
    if len(patients) < 2:
        raise ValueError(f"there are {len(patients)} patients; expected at least two, to train on and to hold out")
    random.Random(seed).shuffle(patients)
    count = min(max(1, round(held_out * len(patients))), len(patients) - 1)
    chosen = set(patients[:count])
    parts: tuple[list[Row], list[Row]] = ([], [])
    for row in rows:
        parts[patient_of(row) in chosen].append(row)
    return parts


def patient_of(row: Row) -> tuple[str, int]:
    """Return the key of a row's patient; a row without one is a patient of its own."""
    return (row.patient, 0) if row.patient else ("", row.line)


def _split_by_column(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    parts: dict[str, list[Row]] = {"train": [], "validation": [], "test": []}
    for row in rows:
        for part, names in zip(parts, (TRAINING, VALIDATION, TEST), strict=True):
            if row.split.lower() in names:
                parts[part].append(row)
                break
        else:
            raise ValueError(
                f"{row.where}: the split is {row.split!r}; expected 'train', 'validation' or 'test' in every row, "
                "or no split column"
            )
    training, held_out = parts["train"], parts["validation"] or parts["test"]
    if not training or not held_out:
        raise ValueError(
            f"the split column gives {len(training)} rows to train on and {len(held_out)} to hold out; expected at "
            "least one of each"
        )
    of_training = {patient_of(row): row for row in training}
    for row in parts["validation"] + parts["test"]:
        other = of_training.get(patient_of(row))
        if other is not None:
            raise ValueError(
                f"patient {row.patient!r} is in the split {other.split!r} on {other.where} and in {row.split!r} on "
                f"{row.where}; put all rows of a patient in one split"
            )
    return training, held_out
