"""Makes a GloriaModel from a checkpoint of the released GLoRIA code."""

from pathlib import Path

from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, ResNetConfig

from gloria.configuration import GloriaConfig
from gloria.convert.checkpoint import read_checkpoint
from gloria.convert.names import UNUSED, released_names
from gloria.convert.settings import SEEN, Settings
from gloria.images import GloriaImageProcessor
from gloria.messages import plain
from gloria.modeling import GloriaModel
from gloria.processing import GloriaProcessor


def convert(
    checkpoint: str | Path, text_encoder: str | None = None, local_files_only: bool = False
) -> tuple[GloriaModel, GloriaProcessor]:
    """Return the model of a released checkpoint, in evaluation mode and float32, and its processor.

    The checkpoint holds the weights and the training settings (`Settings`), but not the tokenizer. Tokenizer and
    configuration come from the text encoder that training started from; nothing else of it is read.

    Args:
        checkpoint: a Lightning checkpoint, such as chexpert_resnet50.ckpt.
        text_encoder: hub name or local directory with configuration and tokenizer. Default: named in the checkpoint.
        local_files_only: use local directories and the cache only.

    Raises:
        FileNotFoundError: `checkpoint` does not exist.
        ValueError: a checkpoint that is unsafe to read, has no weights, or has training settings that `GloriaModel`
            lacks; weights that do not fit: the message names all of them.
        OSError: no text encoder of that name.
    """
    weights, hyper_parameters = read_checkpoint(checkpoint)
    settings = Settings.of(hyper_parameters)
    name = text_encoder or settings.text_encoder
    try:
        text_config = AutoConfig.from_pretrained(name, local_files_only=local_files_only)
        tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=local_files_only)
    except OSError as error:
        raise OSError(
            f"the text encoder {name!r} cannot be read, whose tokenizer the checkpoint does not hold; name a local "
            f"directory with its configuration and tokenizer (--text-encoder). {error}"
        ) from error
    images = GloriaImageProcessor(settings.longer_side, SEEN, settings.image_mean, settings.image_std)
    return model_of(weights, settings, text_config), GloriaProcessor(images, tokenizer, settings.max_length)


def model_of(
    weights: dict[str, Tensor],
    settings: Settings,
    text_config: PretrainedConfig,
    image_config: ResNetConfig | None = None,
) -> GloriaModel:
    """Return the model of released weights, in evaluation mode and float32.

    Args:
        weights: weights under their names in the released code, from `read_checkpoint`.
        settings: training settings.
        text_config: configuration of BERT, the text encoder. Its width is the width of the shared space, since the
            released code does not project words.
        image_config: configuration of ResNet, the image encoder. Default: the one that the settings name.

    Raises:
        ValueError: missing or unknown names, or other shapes: the message names all of them; a text encoder that is not
            a BERT.
    """
    if text_config.model_type != "bert":
        raise ValueError(
            f"the text encoder is a {text_config.model_type!r}; expected a BERT, which the released code has. Name one "
            "of the same size (--text-encoder)"
        )
    image_config = image_config or settings.image_config()
    config = GloriaConfig(
        image_config,
        text_config,
        projection_dim=text_config.hidden_size,
        last_layers=settings.last_layers,
        local_score=settings.score(),
        local_weight=settings.local_weight,
        global_weight=settings.global_weight,
        global_scale=settings.logit_scale,
    )
    model = GloriaModel(config).eval()
    names = released_names(image_config, text_config.num_hidden_layers)
    ours = model.state_dict()
    _check_weights({released: ours[name] for released, name in names.items()}, weights)
    model.load_state_dict({name: weights[released] for released, name in names.items()})
    return model


def _check_weights(expected: dict[str, Tensor], given: dict[str, Tensor]) -> None:
    missing = sorted(set(expected) - set(given))
    unknown = sorted(set(given) - set(expected) - set(UNUSED))
    shapes = [
        f"{name} {tuple(given[name].shape)}, expected {tuple(expected[name].shape)}"
        for name in sorted(set(expected) & set(given))
        if given[name].shape != expected[name].shape
    ]
    found = [("missing", missing), ("unknown", unknown), ("of another shape", shapes)]
    lines = [f"{len(each)} {what}:\n  " + "\n  ".join(map(plain, each)) for what, each in found if each]
    if lines:
        raise ValueError(
            "the weights do not fit; expected those of the released code with the encoders that its settings name. "
            + "\n".join(lines)
        )
