"""ZeroShotClassifier: finds the class whose prompts fit an image best, by the mean of global and local score."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from gloria.embeddings import Embeddings
from gloria.encoding import encode_texts, inference
from gloria.fingerprint import model_fingerprint, preprocessing_fingerprint
from gloria.images import is_single_image
from gloria.modeling import GloriaModel
from gloria.processing import GloriaProcessor
from gloria.retrieval import similarities_to
from gloria.zero_shot.calibration import Calibration
from gloria_ops import LocalScore

Form = Literal["paper", "released"]
Ensemble = Literal["mean", "max"]


class ZeroShotClassifier:
    """Classifies images by classes given in words: the argmax over the classes of ½ (global cosine + local score).

    It is called like transformers' pipeline for zero-shot image classification; its scores are not probabilities.

    Args:
        model: put into evaluation mode while it works.
        processor: processor of the same run.
        prompts: one or several texts for each class, at least two classes; see `gloria.prompts`.
        form: form of the local score. "released", as in the authors' released code: the largest similarity of a word,
            [CLS] excluded, replaces the log-sum-exp on the same scale: log max exp(5 u) = 5 max u of
            LocalScore.released(). "paper": the local score of the training, by default a log-sum-exp over all words. If
            it is not divided by its scale (LocalScore.released()), it grows with the number of words: use prompts of
            similar lengths for all classes, or calibrate.
        ensemble: how the scores of a class's prompts are combined: their largest (released) or their mean.
        calibration: standardizes the scores of each class by a calibration set; made by `calibrate` with the same
            model, prompts, form and ensemble. None, the default: an answer depends on its image alone.
        batch_size: prompts, and images, encoded at once.

    Raises:
        TypeError: prompts that are not texts.
        ValueError: fewer than two classes; a class without prompts; a prompt without words; a calibration of another
            classifier; another form or ensemble; `batch_size` below 1.
    """

    def __init__(
        self,
        model: GloriaModel,
        processor: GloriaProcessor,
        prompts: Mapping[str, str | Sequence[str]],
        *,
        form: Form = "released",
        ensemble: Ensemble = "max",
        calibration: Calibration | None = None,
        batch_size: int = 32,
    ) -> None:
        for name, value, choices in (("form", form, Form), ("ensemble", ensemble, Ensemble)):
            if value not in get_args(choices):
                raise ValueError(f"{name} is {value!r}; expected one of {', '.join(map(repr, get_args(choices)))}")
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; expected at least 1")
        self.model, self.processor = model, processor
        self.form, self.ensemble, self.batch_size = form, ensemble, batch_size
        self.prompts = _checked_prompts(prompts)
        self.classes = tuple(self.prompts)
        self._texts, self._score, self._scale = self._encode_prompts()
        if calibration is not None:
            self._check_calibration(calibration)
        self.calibration = calibration

    @classmethod
    def from_pretrained(
        cls, path: str | Path, prompts: Mapping[str, str | Sequence[str]], **options: Any
    ) -> "ZeroShotClassifier":
        """Make a classifier of a run folder, on the CPU; `options` are those of the class."""
        return cls(GloriaModel.from_pretrained(path), GloriaProcessor.from_pretrained(path), prompts, **options)

    @property
    def description(self) -> dict[str, Any]:
        """Everything but the images that determines the scores, as JSON values."""
        return {
            "model": model_fingerprint(self.model),
            "preprocessing": preprocessing_fingerprint(self.processor),
            "prompts": self.prompts,
            "form": self.form,
            "ensemble": self.ensemble,
        }

    def __call__(self, images: Any) -> list[dict[str, Any]] | list[list[dict[str, Any]]]:
        """Classify images.

        Args:
            images: one or several images, as `GloriaProcessor` takes them.

        Returns:
            {"score": float, "label": class} for every class, best first; a list of such lists for several images.
        """
        scores = self.scores([images] if is_single_image(images) else list(images))
        # A stable sort, so that among equal scores the first class wins, as in an argmax.
        order = scores.argsort(dim=1, descending=True, stable=True).tolist()
        found = [
            [{"score": line[index], "label": self.classes[index]} for index in best]
            for line, best in zip(scores.tolist(), order, strict=True)
        ]
        return found[0] if is_single_image(images) else found

    def scores(self, images: Sequence[Any], progress: bool = False) -> Tensor:
        """Return scores (N, C) float32 of N images, classes in the order of `classes`; the answer is the argmax.

        Raises:
            ValueError: no image; an unreadable image; a score that is NaN or infinite.
        """
        scores = self._raw_scores(images, progress)
        return scores if self.calibration is None else self.calibration.apply(scores)

    def calibrate(self, images: Sequence[Any], source: str, progress: bool = False) -> Calibration:
        """Standardize all later scores by those of these images, and return the calibration.

        Args:
            images: the calibration set, at least two images.
            source: its name, which is saved with the figures.
            progress: show a progress bar, on a terminal.
        """
        self.calibration = Calibration.of(self._raw_scores(images, progress), source, self.description)
        return self.calibration

    def _raw_scores(self, images: Sequence[Any], progress: bool) -> Tensor:
        if not len(images):
            raise ValueError("images is empty; expected one image or more")
        with inference(self.model):
            found = similarities_to(
                self._texts, self.model, self.processor, images, self._score, self.batch_size, progress
            )
        of_prompts = replace(found, of_local=self._scale * found.of_local).by("both")
        for position in (~of_prompts.isfinite().all(1)).nonzero()[:1, 0].tolist():
            raise ValueError(
                f"images[{position}] has scores that are NaN or infinite; the model's weights, or its pixels, are not"
            )
        of_classes = of_prompts.split([len(texts) for texts in self.prompts.values()], dim=1)
        return torch.stack([each.amax(1) if self.ensemble == "max" else each.mean(1) for each in of_classes], dim=1)

    def _encode_prompts(self) -> tuple[Embeddings, LocalScore, float]:
        """Return all encoded prompts, class after class, the local score of the form, and the score's factor."""
        flat = [text for texts in self.prompts.values() for text in texts]
        with inference(self.model):
            texts = encode_texts(self.model, self.processor, flat, self.batch_size)
        has_cls = self.processor.tokenizer.cls_token_id is not None
        for text, length in zip(flat, texts.lengths.tolist(), strict=True):
            if length <= has_cls:
                raise ValueError(f"the prompt {text!r} has no words; expected at least one")
        trained = self.model.learned_score
        if self.form == "paper":
            return texts, trained, 1.0
        if has_cls:
            kept = torch.ones(len(texts.part_embeds), dtype=torch.bool, device=texts.part_embeds.device)
            kept[texts.offsets[:-1]] = False
            texts = Embeddings.packed(texts.item_embeds, texts.part_embeds[kept], texts.lengths - 1)
        scaled = trained.pool == "logsumexp" and not trained.pool_divide
        return texts, replace(trained, pool="max"), trained.word_scale if scaled else 1.0

    def _check_calibration(self, calibration: Calibration) -> None:
        here = self.description
        differing = [name for name in here if calibration.made_by.get(name) != here[name]]
        if differing or list(calibration.made_by["prompts"]) != list(self.classes):
            raise ValueError(
                f"the calibration by {calibration.source} was made with another {', '.join(differing) or 'class order'}"
                "; calibrate this classifier again"
            )


def _checked_prompts(prompts: Mapping[str, str | Sequence[str]]) -> dict[str, list[str]]:
    listed = {name: [texts] if isinstance(texts, str) else list(texts) for name, texts in prompts.items()}
    if len(listed) < 2:
        raise ValueError(f"prompts has the classes {list(listed)}; expected at least two, to tell apart")
    for name, texts in listed.items():
        if not texts:
            raise ValueError(f"prompts of class {name!r} are none; expected at least one")
        for text in texts:
            if not isinstance(text, str):
                raise TypeError(f"a prompt of class {name!r} is {text!r}; expected a text")
    return listed
