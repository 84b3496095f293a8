"""Splits rows into rows to train on and rows to hold out, with no patient in both."""

import random
from collections.abc import Iterator, Sequence

from gloria.data.table import Row
from gloria.messages import counted

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
        raise ValueError(
            f"the rows have {counted(len(patients), 'patient')}; expected at least two, to train on and to hold out"
        )
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


def split_faults(rows: Sequence[Row]) -> Iterator[tuple[Row, str]]:
    """Yield each row that the split column makes bad, and why; none if no row has a split."""
    if not any(row.split for row in rows):
        return
    of_training = {patient_of(row): row for row in rows if row.split.lower() in TRAINING}
    for row in rows:
        name, other = row.split.lower(), of_training.get(patient_of(row))
        if name not in (*TRAINING, *VALIDATION, *TEST):
            fault = (
                f"the split is {row.split!r}; expected 'train', 'validation' or 'test' in every row, or no such column"
            )
            yield row, fault
        elif name not in TRAINING and other is not None:
            fault = (
                f"patient {row.patient!r} is in the split {row.split!r}, and in {other.split!r} on {other.where}; put "
                "all rows of a patient in one split"
            )
            yield row, fault


def _split_by_column(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    for row, fault in split_faults(rows):
        raise ValueError(f"{row.where}: {fault}")
    training, validation, test = (
        [row for row in rows if row.split.lower() in names] for names in (TRAINING, VALIDATION, TEST)
    )
    held_out = validation or test
    if not training or not held_out:
        raise ValueError(
            f"the split column gives {counted(len(training), 'row')} to train on and {len(held_out)} to hold out; "
            "expected at least one of each"
        )
    return training, held_out
