"""SUITES: of which data the tables are filled; each becomes one table of rows for each task, in OUT/data."""

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from gloria.data import Row, read_table, split_rows, write_five_by_200, write_phantoms, write_table
from gloria.data.layouts import five_by, read_chexpert, read_rsna, read_siim, released_labels
from gloria.data.layouts.chexpert import COMPETITION
from gloria.data.phantoms import rows_of_finding
from gloria.durable import write_json
from gloria.prompts import Prompts, generated_prompts
from gloria.reproduce.budget import Budget
from gloria.reproduce.cells import read_json

DATA, PREPARED = "data", "prepared.json"
VALIDATION = 5000  # images of CheXpert that thresholds are chosen on, released
FINDINGS = ("pneumothorax", "nodule")  # that phantoms are segmented for
WITHOUT_REPORTS = "the data have no reports; give --runs, the OUT of a suite whose systems are pre-trained"


@dataclass
class Prepared:
    """The data of a suite.

    Attributes:
        source: what they are, for the page.
        tables: rows of each task, with their split where the task trains on some of them.
        prompts: what stands for a class in zero-shot classification; its rows have the class as label.
        not_run: why a task is not run, by task.
        mask_fractions: of the rows with masks that segmenters are trained on.
    """

    source: str
    tables: dict[str, list[Row]]
    prompts: Prompts = field(default_factory=dict)
    not_run: dict[str, str] = field(default_factory=dict)
    mask_fractions: tuple[float, ...] = (0.01, 0.1, 1.0)


def prepare(suite: str, data: Path | None, out: Path, budget: Budget) -> dict[str, Any]:
    """Write the tables of a suite into OUT/data, or find them there.

    Args:
        suite: a name of `SUITES`.
        data: folder that the data set was unpacked to; None for phantoms, which are drawn.
        out: folder of the suite.
        budget: how many phantoms, and images of each class.

    Returns:
        What data/prepared.json holds: the fields of `Prepared`; of each table, in place of its rows, how many they are,
        "rows", how many of them to train on, "training", and their "sha256".

    Raises:
        ValueError: an unknown suite; no data for one that needs them; what the reader of the data set refuses.
    """
    if suite not in SUITES:
        raise ValueError(f"suite is {suite!r}; expected one of {', '.join(map(repr, SUITES))}")
    if (data is None) != (suite == "phantom"):
        wanted = (
            "none, phantoms are drawn" if suite == "phantom" else "the unpacked data set: name its folder with --data"
        )
        raise ValueError(f"data is {data}; expected of the suite {suite} {wanted}")
    made_of = {"suite": suite, "data": data and str(data.absolute()), "budget": [budget.phantoms, budget.of_each]}
    path = out / DATA / PREPARED
    if path.is_file():
        found = read_json(path)
        if found["made_of"] == made_of:
            return found
    prepared = SUITES[suite](data, out / DATA, budget)
    path.parent.mkdir(parents=True, exist_ok=True)
    for task, rows in prepared.tables.items():
        write_table(path.with_name(f"{task}.csv"), rows)
    tables = {
        task: {"rows": len(rows), "training": sum(row.split == "train" for row in rows), "sha256": _digest(rows)}
        for task, rows in prepared.tables.items()
    }
    described = {**asdict(replace(prepared, tables={})), "tables": tables, "made_of": made_of}
    write_json(path, described)
    return described


def rows_of(out: Path, task: str) -> dict[str, list[Row]]:
    """Return the rows of a task by their split; of a task that trains on none, all as "test"."""
    parts: dict[str, list[Row]] = {}
    for row in read_table(out / DATA / f"{task}.csv", ["image"]):
        parts.setdefault(row.split or "test", []).append(row)
    return parts


def _phantoms(_data: Path | None, folder: Path, budget: Budget) -> Prepared:
    training, validation, test = (
        read_table(write_phantoms(folder / name, count, seed, progress=True))
        for name, count, seed in (
            ("training", budget.phantoms, 0),
            ("validation", max(12, budget.phantoms // 10), 1),
            ("test", max(12, budget.phantoms // 10), 2),
        )
    )
    five = read_table(write_five_by_200(folder / "5x200", of_each=budget.of_each, progress=True))
    tables = {
        "pretraining": _parts(training, validation),
        "retrieval": five,
        "zero-shot": five,
        "classification": [_competition(row) for row in _parts(training, validation, five)],
    }
    for finding in FINDINGS:
        of_finding = (rows_of_finding(rows, finding) for rows in (training, validation, test))
        tables[f"segmentation-{finding}"] = _parts(_balanced(next(of_finding)), *of_finding)
    source = (
        f"{len(training)} phantoms to train on, drawings of chests with reports; 5x{budget.of_each} others to test on"
    )
    return Prepared(source, tables, generated_prompts(), mask_fractions=(0.012, 1.0))  # 6 masks, and all


def _chexpert(data: Path | None, _folder: Path, budget: Budget) -> Prepared:
    assert data is not None
    chosen, rest = five_by(read_chexpert(data).rows, budget.of_each)
    trained_on = [replace(row, split="") for row in rest if row.split == "train"]
    training, validation = split_rows(trained_on, min(0.1, VALIDATION / len(trained_on)))
    test = [row for row in rest if row.split == "validation"]
    tables = {"zero-shot": chosen, "classification": released_labels(_parts(training, validation, test))}
    not_run = {"segmentation": "CheXpert has no masks"}
    told = _parts(*([row for row in rows if row.report] for rows in (training, validation)))
    if {row.split for row in told} == {"train", "validation"} and all(row.report for row in chosen):
        tables |= {"pretraining": told, "retrieval": chosen}
    else:
        not_run |= {"pretraining": WITHOUT_REPORTS, "retrieval": "the images of 5x200 have no reports"}
    source = (
        f"CheXpert: {len(training)} images to train on, {len(test)} of its validation part and 5x{budget.of_each} "
        "others to test on"
    )
    return Prepared(source, tables, generated_prompts(), not_run)


def _rsna(data: Path | None, _folder: Path, _budget: Budget) -> Prepared:
    assert data is not None
    rows = read_rsna(data).rows
    prompts = generated_prompts(("Pneumonia", "No Finding"))
    prompts = {"Pneumonia": prompts["Pneumonia"], "No Pneumonia": prompts["No Finding"]}
    tables = {"classification": rows, "zero-shot": [replace(row, split="") for row in rows if row.split == "test"]}
    not_run = {
        "pretraining": WITHOUT_REPORTS,
        "retrieval": "RSNA has no reports",
        "segmentation": "RSNA has boxes and no masks",
    }
    return Prepared(f"RSNA pneumonia: {len(rows)} images, split as released", tables, prompts, not_run)


def _siim(data: Path | None, folder: Path, _budget: Budget) -> Prepared:
    assert data is not None
    rows = read_siim(data, folder / "masks").rows
    parts = {split: [row for row in rows if row.split == split] for split in ("train", "validation", "test")}
    parts["train"] = _balanced(parts["train"])
    not_run = {
        "pretraining": WITHOUT_REPORTS,
        "retrieval": "SIIM has no reports",
        "zero-shot": "the talk classifies CheXpert and RSNA",
        "classification": "the talk classifies CheXpert and RSNA",
    }
    source = f"SIIM-ACR pneumothorax: {len(rows)} images, split by image"
    return Prepared(source, {"segmentation-pneumothorax": _parts(*parts.values())}, not_run=not_run)


SUITES: dict[str, Callable[[Path | None, Path, Budget], Prepared]] = {
    "phantom": _phantoms,
    "chexpert5x200": _chexpert,
    "rsna": _rsna,
    "siim": _siim,
}


def _parts(*parts: Sequence[Row]) -> list[Row]:
    """Return the rows to train, to validate and to test on as one table that says so."""
    return [
        replace(row, split=split)
        for split, rows in zip(("train", "validation", "test"), parts, strict=False)
        for row in rows
    ]


def _balanced(rows: Sequence[Row]) -> list[Row]:
    """Return the rows with the finding and as many without it, drawn, as the released code trains on masks."""
    positive, negative = ([row for row in rows if bool(max(row.labels.values())) == kind] for kind in (True, False))
    drawn = {row.line for row in random.Random(0).sample(negative, min(len(negative), len(positive)))}
    return [row for row in rows if row.line in drawn or max(row.labels.values())]


def _competition(row: Row) -> Row:
    return replace(row, labels={name: row.labels[name] for name in COMPETITION})


def _digest(rows: Sequence[Row]) -> str:
    """Return the SHA-256 of rows wherever they lie: of files, the names."""
    digest = hashlib.sha256()
    for row in rows:
        files = [path and path.name for path in (row.image, row.mask)]
        digest.update(repr((files, row.report, row.patient, row.split, row.label, sorted(row.labels.items()))).encode())
    return digest.hexdigest()
