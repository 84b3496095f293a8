"""Chest phantoms: simple drawings of a frontal radiograph with one finding, its mask and a templated report.

They show that a model learns where to look, in minutes and without any data; they are no stand-in for radiographs.
Drawn as radiographs are hung: the patient's left is on the right of the picture.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

SIDED = ("pleural effusion", "pneumothorax", "consolidation", "nodule")
FINDINGS = ("no finding", "cardiomegaly", *(f"{side} {finding}" for finding in SIDED for side in ("left", "right")))
COLUMNS = ("image", "report", "patient", "finding", "mask")

# Each finding in words: {size} and {side} are filled in, {zone} is where it lies in the lung.
SENTENCES = {
    "no finding": ("The lungs are clear.", "No acute abnormality.", "Clear lungs without focal opacity."),
    "cardiomegaly": (
        "The heart is enlarged.",
        "{size} cardiomegaly.",
        "{size} enlargement of the cardiac silhouette.",
    ),
    "pleural effusion": (
        "{size} {side} pleural effusion.",
        "Blunting of the {side} costophrenic angle by a {size} pleural effusion.",
        "{size} layering fluid on the {side}.",
    ),
    "pneumothorax": (
        "{size} {side} pneumothorax.",
        "There is a {size} {side} apical pneumothorax.",
        "Absent lung markings above the {side} apex, a {size} pneumothorax.",
    ),
    "consolidation": (
        "{side} {zone} zone consolidation.",
        "There is airspace consolidation in the {zone} {side} lung.",
        "{size} opacity in the {side} {zone} zone, likely pneumonia.",
    ),
    "nodule": (
        "{size} nodule in the {side} {zone} lung.",
        "There is a {size} rounded nodule in the {side} {zone} zone.",
        "{side} {zone} zone pulmonary nodule.",
    ),
}
ABSENT = {
    "cardiomegaly": "Heart size is normal.",
    "pleural effusion": "No pleural effusion.",
    "pneumothorax": "No pneumothorax.",
    "consolidation": "No consolidation.",
}
SIZES = ("small", "moderate", "large")
ZONES = ("upper", "mid", "lower")


@dataclass(frozen=True)
class Phantom:
    """One drawing.

    Attributes:
        image: (size, size) uint8, bright = dense.
        mask: (size, size) bool, True on the finding; empty for "no finding".
        report: sentences on the finding and on what is absent.
        finding: one of `FINDINGS`.
    """

    image: np.ndarray
    mask: np.ndarray
    report: str
    finding: str


def draw_phantom(finding: str, seed: int, size: int = 256) -> Phantom:
    """Draws one phantom.

    Args:
        finding: one of `FINDINGS`.
        seed: not negative; the same finding, seed and size give the same phantom.
        size: pixels of a side, at least 32.

    Raises:
        ValueError: an unknown finding; `size` below 32.
    """
    if finding not in FINDINGS:
        raise ValueError(f"finding is {finding!r}; expected one of {', '.join(map(repr, FINDINGS))}")
    if size < 32:
        raise ValueError(f"size is {size}; expected 32 pixels at least")
    random = np.random.default_rng([seed, FINDINGS.index(finding)])
    side, kind = finding.split(" ", 1) if finding.startswith(("left", "right")) else ("", finding)
    extent, zone = int(random.integers(3)), int(random.integers(3))

    chest = _Chest(size, random, heart=1.45 + 0.15 * extent if kind == "cardiomegaly" else 1.0)
    density = chest.density()
    amount, mask = chest.finding(kind, side, extent, zone)
    density = density + amount
    # A film saturates: density is compressed, with the exposure and contrast of each picture a little different.
    exposed = np.tanh(random.uniform(0.9, 1.25) * density + random.uniform(-0.05, 0.05))
    noisy = exposed + random.normal(0, 0.035, density.shape)
    image = np.rint(255 * np.clip(noisy, 0, 1)).astype(np.uint8)
    report = _report(kind, side, SIZES[extent], ZONES[zone], random)
    return Phantom(image, mask, report, finding)


def write_phantoms(folder: str | Path, count: int, seed: int = 0, size: int = 256, progress: bool = False) -> Path:
    """Writes phantoms as PNG files, masks beside them, and a table of them.

    The findings take turns, so that all are equally frequent; each phantom is a patient of its own.

    Args:
        folder: where to write phantoms.csv, images/ and masks/; made where it does not exist.
        count: number of phantoms, at least 1.
        seed: phantoms of different seeds differ, of the same seed do not.
        size: pixels of a side.
        progress: show a progress bar, on a terminal.

    Returns:
        Path of phantoms.csv: image, report, patient, finding, mask.

    Raises:
        ValueError: `count` below 1; `seed` negative.
    """
    if count < 1 or seed < 0:
        raise ValueError(f"count is {count} and seed {seed}; expected one phantom at least, and a seed of 0 or more")
    folder = Path(folder)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    table = folder / "phantoms.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for number in tqdm(
            range(count), desc="drawing phantoms", unit="image", disable=None if progress else True, leave=False
        ):
            phantom = draw_phantom(FINDINGS[number % len(FINDINGS)], seed * 1_000_003 + number, size)
            name = f"{number:05d}.png"
            Image.fromarray(phantom.image).save(folder / "images" / name)
            Image.fromarray(phantom.mask).save(folder / "masks" / name)
            patient = f"phantom-{seed}-{number:05d}"
            writer.writerow([f"images/{name}", phantom.report, patient, phantom.finding, f"masks/{name}"])
    return table


class _Chest:
    """The anatomy of one phantom, in coordinates from -1 to 1, y downwards, the patient's left at x > 0."""

    def __init__(self, size: int, random: np.random.Generator, heart: float) -> None:
        self.random = random
        steps = (np.arange(size) + 0.5) / size * 2 - 1
        tilt, shift = random.uniform(-0.04, 0.04), random.uniform(-0.05, 0.05, 2)
        x, y = np.meshgrid(steps - shift[0], steps - shift[1])
        self.x, self.y = x + tilt * y, y - tilt * x
        self.edge = 0.02  # half a width of every outline
        self.width, self.height = random.uniform(0.26, 0.31), random.uniform(0.60, 0.68)
        self.middle = random.uniform(0.36, 0.40)  # of a lung, from the midline
        self.diaphragm = {"right": random.uniform(0.42, 0.50), "left": random.uniform(0.47, 0.55)}
        half_width, half_height = heart * random.uniform(0.25, 0.28), random.uniform(0.30, 0.34)
        self.heart = self._ellipse(0.10 + 0.08 * (heart - 1), 0.32, half_width, half_height)
        self.lungs = {side: self._lung(side) for side in ("left", "right")}

    def density(self) -> np.ndarray:
        """The healthy chest: soft tissue, spine, ribs, lungs with vessels, heart and mediastinum."""
        body = self._ellipse(0, 0.25, 0.93, 1.25)
        air = np.maximum(self.lungs["left"], self.lungs["right"])
        density = 0.62 * body * (1 - 0.80 * air)
        density += 0.30 * body * self._band(self.x, 0.08)
        density += 0.10 * body * self._ribs()
        density += 0.10 * air * self._vessels()
        middle = self._ellipse(0.02, -0.25, 0.15, 0.55)
        return density + 0.42 * np.maximum(self.heart, 0.8 * middle) * air

    def finding(self, kind: str, side: str, extent: int, zone: int) -> tuple[np.ndarray, np.ndarray]:
        """What the finding adds to the density, and where it is."""
        if kind == "no finding":
            return np.zeros_like(self.x), np.zeros(self.x.shape, bool)
        if kind == "cardiomegaly":
            return np.zeros_like(self.x), self.heart > 0.5
        sign = 1 if side == "left" else -1
        lung = self.lungs[side]
        if kind == "pleural effusion":
            level = self.diaphragm[side] - 0.12 - 0.14 * extent
            outwards = sign * self.x - self.middle  # the meniscus rises towards the chest wall
            shape = lung * self._above(self.y - level + 0.35 * outwards)
            return 0.45 * shape * (1 - 0.9 * self.heart), shape > 0.5
        if kind == "pneumothorax":
            # Nothing but air between the chest wall and a collapsed lung, which is a little denser.
            scale, rim = 0.86 - 0.12 * extent, 0.03
            centre = sign * (self.middle - 0.03), self.height * (1 - scale) - 0.05
            half_width, half_height = self.width * scale, self.height * scale
            collapsed = lung * self._ellipse(*centre, half_width, half_height)
            pleura = collapsed * (1 - self._ellipse(*centre, half_width - rim, half_height - rim))
            shape = lung - collapsed
            return 0.16 * (pleura - shape) + 0.06 * collapsed, shape > 0.5
        across = sign * (self.middle + self.random.uniform(-0.08, 0.08))
        down = (-0.38, -0.10, 0.20)[zone] + self.random.uniform(-0.05, 0.05)
        if kind == "consolidation":
            half = 0.13 + 0.03 * extent
            cloud = self._ellipse(across, down, half * self.random.uniform(1, 1.25), half, edge=0.08)
            shape = lung * cloud
            return 0.42 * shape * (1 + 0.35 * self._texture(0.05)), shape > 0.5
        half = 0.05 + 0.015 * extent
        shape = lung * self._ellipse(across, down, half, half)
        return 0.48 * shape, shape > 0.5

    def _lung(self, side: str) -> np.ndarray:
        sign = 1 if side == "left" else -1
        outline = self._ellipse(sign * self.middle, -0.05, self.width, self.height)
        dome = self.diaphragm[side] - 0.10 * np.cos(np.pi * (self.x - sign * self.middle) / (2 * self.width))
        return outline * (1 - self._above(self.y - dome))

    def _ellipse(self, x: float, y: float, half_width: float, half_height: float, edge: float = 0.0) -> np.ndarray:
        radius = np.hypot((self.x - x) / half_width, (self.y - y) / half_height)
        return self._above((1 - radius) * min(half_width, half_height), edge)

    def _above(self, distance: np.ndarray, edge: float = 0.0) -> np.ndarray:
        """1 where the distance is positive, 0 where it is negative, smooth between."""
        return 0.5 * (1 + np.tanh(distance / (edge or self.edge)))

    def _band(self, distance: np.ndarray, half_width: float) -> np.ndarray:
        return self._above(half_width - np.abs(distance))

    def _ribs(self) -> np.ndarray:
        """Arcs that fall from the spine to the sides, nine on each."""
        arc = self.y - 0.55 * self.x**2 + self.random.uniform(0, 0.1)
        inside = self._ellipse(0, 0.0, 0.74, 0.95)
        return inside * self._above(np.cos(2 * np.pi * arc / 0.21) - 0.45, 0.25) * (np.abs(self.x) > 0.08)

    def _vessels(self) -> np.ndarray:
        """Markings that fade from the hila outwards."""
        from_hilum = np.hypot(np.abs(self.x) - 0.15, self.y + 0.05)
        return np.exp(-from_hilum / 0.3) * (1 + self._texture(0.03))

    def _texture(self, grain: float) -> np.ndarray:
        """Smooth noise of about -1 to 1, whose grain is a share of the picture."""
        cells = max(2, round(1 / grain))
        coarse = Image.fromarray(self.random.uniform(-1, 1, (cells, cells)).astype(np.float32))
        return np.asarray(coarse.resize(self.x.shape[::-1], Image.Resampling.BICUBIC))


def _report(kind: str, side: str, size: str, zone: str, random: np.random.Generator) -> str:
    found = str(random.choice(SENTENCES[kind])).format(size=size, side=side, zone=zone)
    absent = [sentence for name, sentence in ABSENT.items() if name != kind]
    chosen = random.choice(len(absent), size=random.integers(1, 3), replace=False)
    return " ".join([found[0].upper() + found[1:], *(absent[index] for index in chosen)])
