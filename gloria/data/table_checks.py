"""Warns about a table as a whole, though each of its rows may be good."""

from collections import defaultdict
from collections.abc import Sequence

from gloria.data.table import Row
from gloria.messages import shown


def find_warnings(rows: Sequence[Row]) -> list[str]:
    """Return a warning if all rows have one patient, and for each word for a missing value, such as "nan", in cells.

    Args:
        rows: rows of `read_table`.
    """
    warnings = []
    patients = {row.patient for row in rows if not row.fault}
    if len(rows) > 1 and len(patients) == 1 and "" not in patients:
        warnings.append(
            f"every row has the patient {shown(patients.pop())}, so that none can be held out; check the column patient"
        )
    holding: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        for column, word in row.missing.items():
            holding[column, word].append(row)
    return warnings + [
        f"rows whose {column} is {word!r}, which is read as a missing value: {len(found)} (first: {found[0].where}); "
        "leave the cells empty"
        for (column, word), found in holding.items()
    ]
