"""Where fine-tuning starts: the image encoder of a run folder, or new weights of the same shape, under a new head."""

from pathlib import Path
from typing import Any, TypeVar

import torch

from gloria.configuration import GloriaConfig
from gloria.folders import check_folder
from gloria.heads.encoder import ImageEncoderHead
from gloria.images import GloriaImageProcessor

Head = TypeVar("Head", bound=ImageEncoderHead)


def start_from(
    run: str | Path, kind: type[Head], classes: list[str], seed: int, random_start: bool, cpu: bool, **settings: Any
) -> tuple[Head, GloriaImageProcessor]:
    """Return a model with a new head, on the accelerator if there is one and it may be used, and its image processor.

    Args:
        run: folder of any GLoRIA.
        kind: class of the model.
        classes: their names.
        seed: of the new weights.
        random_start: give the encoder new weights too.
        cpu: use no accelerator.
        settings: other fields of the configuration.

    Raises:
        ValueError: a folder without a GLoRIA, or without the weights of its image encoder.
    """
    check_folder(run)
    config = GloriaConfig.from_pretrained(run, local_files_only=True)
    config.id2label, config.label2id = dict(enumerate(classes)), {name: index for index, name in enumerate(classes)}
    for name, value in settings.items():
        setattr(config, name, value)
    torch.manual_seed(seed)
    if random_start:
        model = kind(config)
    else:
        found: Any = kind.from_pretrained(run, config=config, local_files_only=True, output_loading_info=True)
        model, loaded = found
        missing = [name for name in loaded["missing_keys"] if name.startswith("image_encoder.")]
        if missing:
            raise ValueError(
                f"{run} lacks {len(missing)} weights of the image encoder, {missing[0]} for instance; expected a run "
                "folder with all of them, or start from new weights (random_start)"
            )
    accelerator = None if cpu else torch.accelerator.current_accelerator(check_available=True)
    model.to(device=accelerator or torch.device("cpu"))  # type: ignore[call-arg]
    return model, GloriaImageProcessor.from_pretrained(run, local_files_only=True)
