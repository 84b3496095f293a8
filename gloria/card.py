"""The model card: README.md of a run folder, with the metadata that the Hugging Face hub reads."""

import json
import re
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from gloria.configuration import GloriaConfig
from gloria.folders import check_folder
from gloria.images import GloriaImageProcessor
from gloria.modeling import GloriaModel
from gloria.retrieval import format_precision
from gloria.training import METRICS
from gloria_ops import LocalScore

CARD = "README.md"
TAGS = ["gloria", "chest-x-ray", "radiology", "image-text-retrieval", "contrastive-learning"]


def write_card(
    folder: str | Path, license: str, name: str | None = None, data: str | None = None, notes: str | None = None
) -> Path:
    """Write the card of a saved model, from its configuration and its metrics.json, if any.

    It sends nothing anywhere, and reads nothing from outside the folder.

    Args:
        folder: holds config.json and preprocessor_config.json, as `gloria train` and `gloria convert` write them.
        license: identifier as the hub lists it, such as "apache-2.0" or "other". The data and the encoders decide which
            license the weights may have: only the author can tell.
        name: name of the model. Default: the name of the folder.
        data: name of the data set that it was trained and measured on.
        notes: Markdown to add to the card.

    Returns:
        Path of the card; an earlier card is replaced.

    Raises:
        ValueError: no model in the folder; a license that cannot be an identifier.
    """
    folder = Path(folder)
    check_folder(folder)
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", license):
        raise ValueError(
            f"license is {license!r}; expected an identifier as the hub lists them, such as 'apache-2.0', "
            "'cc-by-nc-4.0' or 'other'"
        )
    config = GloriaConfig.from_pretrained(folder, local_files_only=True)
    images = GloriaImageProcessor.from_pretrained(folder, local_files_only=True)
    score = _final_score(folder, config)
    metrics = _read_metrics(folder)
    name = name or folder.resolve().name
    card_data = ModelCardData(
        license=license,
        language="en",
        library_name="gloria-ops",
        pipeline_tag="zero-shot-image-classification",
        tags=TAGS,
        model_name=name,
        eval_results=_hub_results(metrics, data or "unnamed"),
    )
    card = ModelCard.from_template(
        card_data,
        template_path=str(Path(__file__).with_suffix(".md")),
        name=name,
        config=config,
        images=images,
        score=score_name(score),
        logit_scale=f"{score.logit_scale:.6g}",
        data=data,
        notes=notes,
        metrics=metrics,
        table=format_precision(metrics["precision"]) if metrics else None,
    )
    card.save(folder / CARD)
    return folder / CARD


def _final_score(folder: Path, config: GloriaConfig) -> LocalScore:
    """The local score of the weights: that of the configuration, unless some of its scales were learned."""
    if config.learnable_attention_scale or config.learnable_word_scale or config.local_loss == "sigmoid":
        return GloriaModel.from_pretrained(folder, local_files_only=True).learned_score
    return config.score


def score_name(score: LocalScore) -> str:
    """Return the preset that makes this local score, as code; all of its knobs if no preset does."""
    known = {"LocalScore.released()": LocalScore.released(), "LocalScore.maxsim()": LocalScore.maxsim()}
    known |= {f"LocalScore.{each.__name__}()": each() for each in (LocalScore.scan_t2i, LocalScore.scan_i2t)}
    tau2, tau3 = 1 / score.attention_scale, 1 / score.word_scale
    if tau2 > 0:  # the temperatures of the paper, to the digits that a scale has
        known[f"LocalScore.paper(tau2={tau2:.6g}, tau3={tau3:.6g})"] = LocalScore.paper(
            float(f"{tau2:.6g}"), float(f"{tau3:.6g}")
        )
    return next((name for name, preset in known.items() if preset == score), str(score))


def _read_metrics(folder: Path) -> dict[str, Any] | None:
    path = folder / METRICS
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _hub_results(metrics: dict[str, Any] | None, data: str) -> list[EvalResult] | None:
    if metrics is None:
        return None
    return [
        EvalResult(
            task_type="image-text-retrieval",
            task_name="Retrieval",
            dataset_type=re.sub(r"[^a-z0-9]+", "-", data.lower()).strip("-") or "unnamed",
            dataset_name=f"{data}, {metrics['held_out_rows']} held-out rows",
            metric_type="precision_at_k",
            metric_name=f"Precision@{ranked.rpartition('@')[2]}, {direction}, ranked by {ranked.partition(' ')[0]}",
            metric_value=round(value, 4),
        )
        for direction, line in metrics["precision"].items()
        for ranked, value in line.items()
        if "@" in ranked
    ]
