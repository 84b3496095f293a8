"""Calibration: standardizes the scores of each class by their mean and deviation over a calibration set."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gloria.durable import write_json


@dataclass(frozen=True)
class Calibration:
    """Standardizes the scores of each class: (score - mean) / std.

    Attributes:
        source: name of the calibration set.
        images: number of its images.
        made_by: `ZeroShotClassifier.description` of the classifier that scored them; it serves no other.
        mean: mean score of each class.
        std: standard deviation of each class, above 0; without Bessel's correction, as in the released code.
    """

    source: str
    images: int
    made_by: dict[str, Any]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, scores: Tensor, source: str, made_by: dict[str, Any]) -> "Calibration":
        """Make a calibration from the scores (N, C) of the images of a set.

        Raises:
            ValueError: a class with the same score for all images, as in a set of one image.
        """
        std, mean = torch.std_mean(scores.double(), dim=0, correction=0)
        for name, deviation in zip(made_by["prompts"], std.tolist(), strict=True):
            if not deviation > 0:
                raise ValueError(
                    f"the score of class {name!r} is the same for all {len(scores)} images of the calibration set "
                    f"{source}; expected at least two different images"
                )
        return cls(source, len(scores), made_by, tuple(mean.tolist()), tuple(std.tolist()))

    def apply(self, scores: Tensor) -> Tensor:
        """Return standardized scores (N, C)."""
        return (scores - scores.new_tensor(self.mean)) / scores.new_tensor(self.std)

    def save(self, path: str | Path) -> None:
        """Write a JSON file."""
        write_json(Path(path), asdict(self), indent=2)

    @classmethod
    def load(cls, path: str | Path) -> "Calibration":
        """Read a file of `save`.

        Raises:
            FileNotFoundError: `path` does not exist.
            ValueError: another kind of file, or numbers that cannot standardize scores.
        """
        try:
            saved = json.loads(Path(path).read_text(encoding="utf-8"))
            calibration = cls(**saved | {name: tuple(map(float, saved[name])) for name in ("mean", "std")})
            classes = len(calibration.made_by["prompts"])
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path} is not a calibration ({error}); expected what Calibration.save wrote") from error
        if not len(calibration.mean) == len(calibration.std) == classes or not min(calibration.std, default=0) > 0:
            raise ValueError(
                f"{path} has {classes} classes, means {calibration.mean} and deviations {calibration.std}; expected "
                "one of each for each class, deviations above 0"
            )
        return calibration
