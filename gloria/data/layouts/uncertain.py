"""CheXpert's labels as the released GLoRIA trains on them: five classes, uncertain ones settled, the rest absent."""

from collections.abc import Sequence
from dataclasses import replace

from gloria.data.layouts.chexpert import COMPETITION
from gloria.data.table import Row

# What -1 becomes. The best of the policies that CheXpert's authors tried for each class, of "zeros" and "ones".
UNCERTAIN = {"Atelectasis": 1, "Cardiomegaly": 0, "Consolidation": 0, "Edema": 1, "Pleural Effusion": 1}


def released_labels(rows: Sequence[Row]) -> list[Row]:
    """Return the rows with a label of 0 or 1 for each class of the competition.

    A class that a report does not mention is absent, as it is in the released code.

    Args:
        rows: with labels, as `read_chexpert` gives them.
    """
    return [
        replace(
            row,
            labels={
                name: UNCERTAIN[name] if (value := row.labels.get(name, 0)) == -1 else value for name in COMPETITION
            },
        )
        for row in rows
    ]
