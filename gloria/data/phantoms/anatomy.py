"""Draws the anatomy of a chest phantom: the density of a healthy chest, and the density and mask of each finding."""

import numpy as np
from PIL import Image

SEVERITIES = 3  # 0 small, 1 moderate, 2 large
ZONES = {"upper": -0.38, "mid": -0.10, "lower": 0.20}  # height of the middle of each zone of the lung


class Chest:
    """Draws one chest in coordinates from -1 to 1, y downwards, with the patient's left at x > 0, as in radiographs.

    Args:
        size: side in pixels.
        random: source of the differences between chests.
        cardiomegaly: severity of the heart's enlargement, None = normal size.
        raised: severity by which atelectasis raises a hemidiaphragm, by side.
    """

    def __init__(
        self,
        size: int,
        random: np.random.Generator,
        cardiomegaly: int | None = None,
        raised: dict[str, int] | None = None,
    ) -> None:
        self.random = random
        steps = (np.arange(size) + 0.5) / size * 2 - 1
        tilt, shift = random.uniform(-0.06, 0.06), random.uniform(-0.07, 0.07, 2)
        zoom = random.uniform(0.94, 1.06)
        x, y = np.meshgrid(zoom * steps - shift[0], zoom * steps - shift[1])
        self.x, self.y = x + tilt * y, y - tilt * x
        self.edge = 0.02  # half a width of every outline
        self.width, self.height = random.uniform(0.26, 0.31), random.uniform(0.60, 0.68)
        self.middle = random.uniform(0.36, 0.40)  # of a lung, from the midline
        self.diaphragm = {"right": random.uniform(0.42, 0.50), "left": random.uniform(0.47, 0.55)}
        for side, severity in (raised or {}).items():
            self.diaphragm[side] -= 0.04 + 0.03 * severity
        heart = 1.0 if cardiomegaly is None else 1.40 + 0.15 * cardiomegaly
        half_width, half_height = heart * random.uniform(0.25, 0.28), random.uniform(0.30, 0.34)
        self.heart = self._ellipse(0.10 + 0.08 * (heart - 1), 0.32, half_width, half_height)
        self.lungs = {side: self._lung(side) for side in ("left", "right")}
        self.air = np.maximum(self.lungs["left"], self.lungs["right"])

    def density(self) -> np.ndarray:
        """Draw the healthy chest: soft tissue, spine, ribs, lungs with vessels, heart and mediastinum."""
        body = self._ellipse(0, 0.25, 0.93, 1.25)
        density = 0.62 * body * (1 - 0.80 * self.air)
        density += 0.30 * body * self._step(0.08 - np.abs(self.x))
        density += 0.10 * body * self._ribs()
        density += 0.12 * self.air * self._vessels()
        middle = self._ellipse(0.02, -0.25, 0.15, 0.55)
        return density + 0.42 * np.maximum(self.heart, 0.8 * middle) * self.air

    def finding(self, kind: str, side: str, severity: int, zone: str) -> tuple[np.ndarray, np.ndarray]:
        """Draw a finding: the density that it adds, (size, size), and its mask, bool of the same shape."""
        drawn = {
            "atelectasis": self._atelectasis,
            "consolidation": self._consolidation,
            "pleural effusion": self._effusion,
            "pneumothorax": self._pneumothorax,
            "nodule": self._nodule,
        }
        if kind in drawn:
            return drawn[kind](side, severity, zone)
        if kind == "edema":
            return self._edema(severity)
        # An enlarged heart is part of the healthy density already.
        where = self.heart > 0.5 if kind == "cardiomegaly" else np.zeros(self.x.shape, bool)
        return np.zeros_like(self.x), where

    def _atelectasis(self, side: str, severity: int, _zone: str) -> tuple[np.ndarray, np.ndarray]:
        """Draw plates of collapsed lung above a raised hemidiaphragm."""
        sign = 1 if side == "left" else -1
        lung, shape = self.lungs[side], np.zeros_like(self.x)
        for plate in range(1 + severity):
            across = sign * (self.middle + self.random.uniform(-0.04, 0.08))
            down = self.diaphragm[side] - 0.18 - 0.09 * plate + self.random.uniform(-0.02, 0.02)
            slope, bend = self.random.uniform(-0.25, 0.25), self.random.uniform(-0.4, 0.4)
            along = self.x - across
            off = self.y - down - slope * along - bend * along**2
            half_length, half_width = self.random.uniform(0.11, 0.17), self.random.uniform(0.014, 0.022)
            plate_shape = self._step(half_length - np.abs(along)) * self._step(half_width - np.abs(off), 0.015)
            shape = np.maximum(shape, lung * plate_shape)
        return 0.34 * shape, shape > 0.3

    def _consolidation(self, side: str, severity: int, zone: str) -> tuple[np.ndarray, np.ndarray]:
        """Draw a cloud with a ragged edge."""
        half = 0.11 + 0.03 * severity
        across, down = self._place_in_zone(side, zone)
        stretched = half * self.random.uniform(1, 1.25)
        radius = np.hypot((self.x - across) / stretched, (self.y - down) / half) + 0.25 * self._texture(0.08)
        shape = self.lungs[side] * self._step((1 - radius) * half, 0.06)
        return 0.42 * shape * (1 + 0.35 * self._texture(0.05)), shape > 0.5

    def _edema(self, severity: int) -> tuple[np.ndarray, np.ndarray]:
        """Draw haze around both hila, in the shape of a bat's wings, with septal lines at the edges of the lungs."""
        from_hila = np.hypot((np.abs(self.x) - 0.20) / 1.1, self.y - 0.02)
        haze = self.air * np.exp(-((from_hila / (0.22 + 0.04 * severity)) ** 2))
        lines = self._step(np.cos(2 * np.pi * self.y / 0.055) - 0.75, 0.15)
        septal = self.air * lines * self._step(np.abs(self.x) - self.middle - 0.10) * self._step(self.y - 0.05)
        amount = (0.22 + 0.08 * severity) * haze * (1 + 0.5 * self._texture(0.04)) + (0.06 + 0.03 * severity) * septal
        return amount, haze > 0.45

    def _effusion(self, side: str, severity: int, _zone: str) -> tuple[np.ndarray, np.ndarray]:
        """Draw fluid over the diaphragm, whose meniscus rises towards the chest wall."""
        sign = 1 if side == "left" else -1
        level = self.diaphragm[side] - 0.12 - 0.13 * severity
        shape = self.lungs[side] * self._step(self.y - level + 0.35 * (sign * self.x - self.middle))
        return 0.45 * shape * (1 - 0.9 * self.heart), shape > 0.5

    def _pneumothorax(self, side: str, severity: int, _zone: str) -> tuple[np.ndarray, np.ndarray]:
        """Draw air between the chest wall and a collapsed lung, which is slightly denser."""
        sign = 1 if side == "left" else -1
        scale, rim = 0.86 - 0.12 * severity, 0.03
        center = sign * (self.middle - 0.03), self.height * (1 - scale) - 0.05
        half_width, half_height = self.width * scale, self.height * scale
        collapsed = self.lungs[side] * self._ellipse(*center, half_width, half_height)
        pleura = collapsed * (1 - self._ellipse(*center, half_width - rim, half_height - rim))
        shape = self.lungs[side] - collapsed
        return 0.16 * (pleura - shape) + 0.06 * collapsed, shape > 0.5

    def _nodule(self, side: str, severity: int, zone: str) -> tuple[np.ndarray, np.ndarray]:
        half = 0.05 + 0.015 * severity
        shape = self.lungs[side] * self._ellipse(*self._place_in_zone(side, zone), half, half)
        return 0.48 * shape, shape > 0.5

    def _place_in_zone(self, side: str, zone: str) -> tuple[float, float]:
        """Choose the center of a finding in a zone of a lung."""
        sign = 1 if side == "left" else -1
        across = sign * (self.middle + self.random.uniform(-0.08, 0.08))
        return across, ZONES[zone] + self.random.uniform(-0.05, 0.05)

    def _lung(self, side: str) -> np.ndarray:
        sign = 1 if side == "left" else -1
        outline = self._ellipse(sign * self.middle, -0.05, self.width, self.height)
        dome = self.diaphragm[side] - 0.10 * np.cos(np.pi * (self.x - sign * self.middle) / (2 * self.width))
        return outline * (1 - self._step(self.y - dome))

    def _ellipse(self, x: float, y: float, half_width: float, half_height: float) -> np.ndarray:
        radius = np.hypot((self.x - x) / half_width, (self.y - y) / half_height)
        return self._step((1 - radius) * min(half_width, half_height))

    def _step(self, distance: np.ndarray, edge: float = 0.0) -> np.ndarray:
        """Return 1 for positive distances and 0 for negative ones, with a smooth step between."""
        return 0.5 * (1 + np.tanh(distance / (edge or self.edge)))

    def _ribs(self) -> np.ndarray:
        """Draw arcs that fall from the spine to the sides, nine on each."""
        arc = self.y - 0.55 * self.x**2 + self.random.uniform(0, 0.1)
        inside = self._ellipse(0, 0.0, 0.74, 0.95)
        return inside * self._step(np.cos(2 * np.pi * arc / 0.21) - 0.45, 0.25) * (np.abs(self.x) > 0.08)

    def _vessels(self) -> np.ndarray:
        """Draw markings that fade from the hila outwards."""
        from_hilum = np.hypot(np.abs(self.x) - 0.15, self.y + 0.05)
        return np.exp(-from_hilum / 0.3) * (1 + self._texture(0.03))

    def _texture(self, grain: float) -> np.ndarray:
        """Draw smooth noise of about -1 to 1; the grain is a share of the picture."""
        cells = max(2, round(1 / grain))
        coarse = Image.fromarray(self.random.uniform(-1, 1, (cells, cells)).astype(np.float32))
        return np.asarray(coarse.resize(self.x.shape[::-1], Image.Resampling.BICUBIC))
