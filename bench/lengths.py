"""Word counts of real reports: the stored table, how it was counted, and how a batch of lengths is drawn from it."""

from __future__ import annotations

import csv
import json
import random
import re
import sys
from collections import Counter
from pathlib import Path

TABLE = Path(__file__).with_name("report_lengths.json")
LONGEST = 97  # the released configuration's limit on one text


def count_words(report: str) -> int:
    """Words of one report: [CLS] and every run of alphanumerics, as the released preprocessing has it, at most 97."""
    return min(LONGEST, 1 + len(re.findall(r"\w+", report)))


def load_table(path: Path = TABLE) -> list[int]:
    """Every stored report's word count, ascending; the file holds {words: number of reports}."""
    counts = json.loads(path.read_text())
    return sorted(int(words) for words, reports in counts.items() for _ in range(reports))


def draw_lengths(texts: int, seed: int = 0) -> list[int]:
    """Draw `texts` word counts from the stored reports, the same for the same seed on every machine.

    The draw is stratified, one from each of `texts` equal slices of the sorted table, so that the mean stays near the
    table's own (about 46) for every batch size: figures at N = 32 and N = 48 then differ in N and not in luck.
    """
    table = load_table()
    chance = random.Random(seed)
    lengths = [table[int((text + chance.random()) / texts * len(table))] for text in range(texts)]
    chance.shuffle(lengths)
    return lengths


def main() -> None:
    """Print the table of a CSV's `report` column: `python -m bench.lengths reports.csv > bench/report_lengths.json`."""
    with open(sys.argv[1], newline="") as reports:
        counts = Counter(count_words(row["report"]) for row in csv.DictReader(reports))
    print(json.dumps(dict(sorted(counts.items()))))


if __name__ == "__main__":
    main()
