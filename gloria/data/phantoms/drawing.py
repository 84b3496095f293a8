"""Draws chest phantoms: frontal radiographs with findings, their masks and a report.

Phantoms show that a model learns where to look, in minutes and without any data; they do not replace radiographs.
The patient's left is on the right of the picture, as in radiographs.
"""

import csv
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from gloria.data.layouts.chexpert import COMPETITION
from gloria.data.phantoms.anatomy import SEVERITIES, ZONES, Chest
from gloria.data.phantoms.reports import Finding, write_report
from gloria.data.table import Row

SIDED = ("atelectasis", "pleural effusion", "pneumothorax", "consolidation", "nodule")
WHOLE = ("cardiomegaly", "edema")
KINDS = (*WHOLE, *SIDED)
FINDINGS = ("no finding", *WHOLE, *(f"{side} {finding}" for finding in SIDED for side in ("left", "right")))
COLUMNS = ("image", "report", "patient", "label", "finding", "severity", "mask", "labels")
EMPTY = "none.png"  # the mask of a finding that a phantom does not show

OF_EACH = 200  # of 5x200
FIVE_BY_200 = 5200  # part of that set's seeds, so that no other phantom shares them


@dataclass(frozen=True)
class Phantom:
    """Holds one drawing.

    Attributes:
        image: (size, size) uint8, bright = dense.
        masks: mask of each finding, (size, size) bool, in the order of `findings`; empty for "no finding".
        report: sentences on the findings and on absent findings, and remarks.
        findings: findings in the drawing; one of the kind "no finding" if there are none.
    """

    image: np.ndarray
    masks: tuple[np.ndarray, ...]
    report: str
    findings: tuple[Finding, ...]

    @property
    def mask(self) -> np.ndarray:
        """(size, size) bool, True on any finding."""
        return np.logical_or.reduce(self.masks)

    @property
    def finding(self) -> str:
        """Names of the findings in `FINDINGS`, joined by " and "."""
        return " and ".join(f"{finding.side} {finding.kind}".strip() for finding in self.findings)


def draw_phantom(findings: str | Sequence[str], seed: int | Sequence[int], size: int = 256) -> Phantom:
    """Draw one phantom.

    Args:
        findings: one or several of `FINDINGS`, of different kinds.
        seed: at least 0, or a sequence of such numbers; the same findings, seed and size give the same phantom.
        size: pixels of a side, at least 32.

    Raises:
        ValueError: an unknown finding, two of a kind, "no finding" beside another; `size` below 32.
    """
    named = [findings] if isinstance(findings, str) else list(findings)
    _check_findings(named, size)
    random = np.random.default_rng([*np.atleast_1d(seed), *(FINDINGS.index(name) for name in named)])
    present = [_random_finding(name, random) for name in named]

    chest = Chest(
        size,
        random,
        cardiomegaly=next((each.severity for each in present if each.kind == "cardiomegaly"), None),
        raised={each.side: each.severity for each in present if each.kind == "atelectasis"},
    )
    density = chest.density()
    masks = []
    for each in present:
        amount, mask = chest.finding(each.kind, each.side, each.severity, each.zone)
        density = density + amount
        masks.append(mask)
    # A film saturates, so density is compressed; exposure and contrast vary a little from picture to picture.
    exposed = np.tanh(random.uniform(0.9, 1.25) * density + random.uniform(-0.05, 0.05))
    noisy = exposed + random.normal(0, 0.035, density.shape)
    image = np.rint(255 * np.clip(noisy, 0, 1)).astype(np.uint8)
    return Phantom(image, tuple(masks), write_report(present, random), tuple(present))


def write_phantoms(
    folder: str | Path, count: int, seed: int = 0, size: int = 256, second: float = 0.0, progress: bool = False
) -> Path:
    """Write phantoms as PNG files, masks beside them, and a table of them.

    The findings take turns, so all are equally frequent; each phantom is its own patient.

    Args:
        folder: folder for phantoms.csv, images/ and masks/; created if it is missing.
        count: number of phantoms, at least 1.
        seed: the same seed gives the same phantoms.
        size: side in pixels.
        second: share of the phantoms with a finding that get a second one, of another kind.
        progress: show a progress bar, on a terminal.

    Returns:
        Path of phantoms.csv: image, report, patient, label and finding (both as `Phantom.finding`), severity, mask (of
        all findings; that of one is masks/NUMBER-FINDING.png, see `rows_of_finding`), labels, 1 or 0 for each
        finding as CheXpert spells it, such as "Pleural Effusion".

    Raises:
        ValueError: `count` below 1; `seed` negative; `second` outside [0, 1].
    """
    if count < 1 or seed < 0:
        raise ValueError(f"count is {count} and seed {seed}; expected at least one phantom, and a seed of 0 or more")
    if not 0 <= second <= 1:
        raise ValueError(f"second is {second}; expected a share of the phantoms, 0 to 1")
    wanted = [
        _Wanted(number, f"phantom-{seed}-{number:05d}", _findings_of(number, seed, second), [seed, number])
        for number in range(count)
    ]
    return _write(Path(folder), wanted, size, progress)


def write_five_by_200(
    folder: str | Path, seed: int = 0, size: int = 256, of_each: int = OF_EACH, progress: bool = False
) -> Path:
    """Write the phantom 5x200 set: 200 phantoms of each of CheXpert's competition classes, with no other finding.

    It follows CheXpert 5x200 (Huang et al., 2021). The same seed gives the same set, and it shares no phantom with
    `write_phantoms` for any seeds.

    Args:
        folder: folder for phantoms.csv, images/ and masks/; created if it is missing.
        seed: at least 0.
        size: side in pixels.
        of_each: phantoms of each class; 200 gives the set its name.
        progress: show a progress bar, on a terminal.

    Returns:
        Path of phantoms.csv, as of `write_phantoms` except for the label, which is CheXpert's name of the class, such
        as "Pleural Effusion".

    Raises:
        ValueError: `of_each` below 1; `seed` negative.
    """
    if of_each < 1 or seed < 0:
        raise ValueError(f"of_each is {of_each} and seed {seed}; expected at least 1, and a seed of 0 or more")
    wanted = [
        _Wanted(
            number * len(COMPETITION) + place,
            f"5x200-{seed}-{number:04d}-{name}",
            [_with_side(name.lower(), number)],
            [seed, number, FIVE_BY_200],
            name,
        )
        for number in range(of_each)
        for place, name in enumerate(COMPETITION)
    ]
    return _write(Path(folder), wanted, size, progress)


def rows_of_finding(rows: Sequence[Row], kind: str) -> list[Row]:
    """Return phantoms with the mask and the label of one finding alone, whatever else they show.

    Args:
        rows: of the table that `write_phantoms` or `write_five_by_200` wrote.
        kind: a finding without its side, such as "pneumothorax".

    Returns:
        The same rows, with `labels` of one entry; those without the finding share an empty mask.

    Raises:
        ValueError: another kind; rows without masks.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; expected one of {', '.join(map(repr, KINDS))}")
    found = []
    for row in rows:
        if row.mask is None:
            raise ValueError(f"{row.where} has no mask; expected a table that `gloria phantoms` wrote")
        own = _mask_of(row.mask, kind)
        present = own.is_file()
        found.append(
            replace(row, mask=own if present else row.mask.with_name(EMPTY), labels={kind.title(): int(present)})
        )
    return found


def _mask_of(mask: Path, kind: str) -> Path:
    """Return where the mask of one finding lies, beside that of all."""
    return mask.with_name(f"{mask.stem}-{kind.replace(' ', '-')}.png")


def _check_findings(named: Sequence[str], size: int) -> None:
    for name in named:
        if name not in FINDINGS:
            raise ValueError(f"finding is {name!r}; expected one of {', '.join(map(repr, FINDINGS))}")
    kinds = {_side_and_kind(name)[1] for name in named}
    if len(kinds) != len(named) or not named or (len(named) > 1 and "no finding" in kinds):
        raise ValueError(f"findings are {list(named)}; expected different kinds, and 'no finding' by itself")
    if size < 32:
        raise ValueError(f"size is {size}; expected at least 32 pixels")


def _side_and_kind(name: str) -> tuple[str, str]:
    side, _, kind = name.partition(" ")
    return (side, kind) if kind in SIDED else ("", name)


def _with_side(kind: str, number: int) -> str:
    """Return the finding's name in `FINDINGS`; sides take turns."""
    return f"{('left', 'right')[number % 2]} {kind}" if kind in SIDED else kind


def _random_finding(name: str, random: np.random.Generator) -> Finding:
    side, kind = _side_and_kind(name)
    return Finding(kind, side, int(random.integers(SEVERITIES)), str(random.choice(list(ZONES))))


def _findings_of(number: int, seed: int, second: float) -> list[str]:
    """Choose the findings of the phantom with this number."""
    first = FINDINGS[number % len(FINDINGS)]
    random = np.random.default_rng([seed, number])
    if first == "no finding" or random.random() >= second:
        return [first]
    others = [name for name in FINDINGS[1:] if _side_and_kind(name)[1] != _side_and_kind(first)[1]]
    return [first, str(random.choice(others))]


class _Wanted(NamedTuple):
    """A phantom to be written: its number in the table, and what it is drawn from; the label "" is the finding."""

    number: int
    patient: str
    findings: list[str]
    seed: list[int]
    label: str = ""


def _write(folder: Path, wanted: Sequence[_Wanted], size: int, progress: bool) -> Path:
    """Write phantoms as files, and a table of them."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((size, size), bool)).save(folder / "masks" / EMPTY)
    table = folder / "phantoms.csv"
    pool = ThreadPoolExecutor()  # NumPy draws, and Pillow compresses, without the interpreter's lock
    try:
        lines = pool.map(partial(_draw, folder, size), wanted)
        with table.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            quiet = None if progress else True
            writer.writerows(tqdm(lines, "drawing phantoms", len(wanted), unit="image", disable=quiet, leave=False))
    finally:
        pool.shutdown(cancel_futures=True)
    return table


def _draw(folder: Path, size: int, wanted: _Wanted) -> list[str]:
    """Write one phantom, and return its line of the table."""
    phantom = draw_phantom(wanted.findings, wanted.seed, size)
    image, mask = f"images/{wanted.number:05d}.png", f"masks/{wanted.number:05d}.png"
    Image.fromarray(phantom.image).save(folder / image)
    Image.fromarray(phantom.mask).save(folder / mask)
    present = {each.kind: own for each, own in zip(phantom.findings, phantom.masks, strict=True)}
    labels = "; ".join(f"{kind.title()}={int(kind in present)}" for kind in KINDS)
    for kind in {*KINDS} & {*present}:
        Image.fromarray(present[kind]).save(_mask_of(folder / mask, kind))
    severity = " and ".join(str(finding.severity) for finding in phantom.findings)
    name = phantom.finding
    return [image, phantom.report, wanted.patient, wanted.label or name, name, severity, mask, labels]
