"""GloriaConfig: which two encoders, how wide the shared space is, and which local score and loss tie them together."""

from copy import deepcopy
from dataclasses import asdict, fields, replace
from typing import Any, ClassVar, Literal, get_args

from transformers import AutoConfig, BertConfig, PretrainedConfig, ResNetConfig

from gloria_ops import LocalScore
from gloria_ops.sigmoid import SIGLIP_BIAS

LocalLoss = Literal["contrastive", "sigmoid"]

GlobalLoss = Literal["contrastive", "hinge"]
ImagePooling = Literal["mean", "selective"]


class GloriaConfig(PretrainedConfig):
    """Configuration of a [`GloriaModel`]; every default is what the authors' released code runs.

    Args:
        image_config: configuration (or its dict) of any transformers image encoder. Default: ResNet-50.
        text_config: configuration (or its dict) of any transformers text encoder with hidden states. Default: BERT
            base.
        projection_dim: D, the width of the shared space of regions, words and sentences.
        region_stage: stage of the backbone whose feature map holds the regions. None takes "stage3" of an encoder with
            stages (ResNet-50: 1024 channels, 19 x 19 regions at 299 px), and the patch tokens of a plain vision
            transformer.
        last_layers: number of last hidden layers of the text encoder that are summed.
        normalize_local: bring regions and words to unit length, so that affinities are cosines, as the scores of SCAN,
            FILIP and ColBERT expect. Released: neither is.
        local_score: fields of `gloria_ops.LocalScore` that differ from `LocalScore.released()`, or a `LocalScore`.
            Its `logit_scale` (released: 10) is the scale of the local loss.
        learnable_attention_scale, learnable_word_scale: learn these scales of the local score, from where it has them;
            `GloriaModel.learned_score` has what has been learned. Released: both are fixed.
        local_loss: "contrastive", or "sigmoid" (SigLIP): every pair is a yes or no of its own, with a learned scale,
            which starts at the score's `logit_scale`, and a learned bias. Pairs of equal reports take part in neither.
        local_bias: where the bias of the sigmoid loss starts. Default -10, SigLIP's, for scores around 0, as cosines
            are; for others subtract `logit_scale` times a typical score.
        local_weight: weight of the local loss, both directions, in the total. 0 leaves it out of the computation.
        global_weight: weight of the global loss, both directions, in the total. 0 leaves it out of the computation.
        global_scale: scale on the cosines of the contrastive global loss.
        global_loss: "contrastive" (InfoNCE), or "hinge": every wrong text, and every wrong image, is to lose to the
            right one by the margin, VSE++'s and DSVE's; in the end the hardest one alone counts, see
            `GloriaModel.hardest_negatives`.
        global_image_weight: share of image to text in the contrastive global loss, text to image having the rest: the
            loss is 2 (share x image to text + rest x text to image). Default 0.5, the plain sum; ConVIRT: 0.75.
        margin: of the hinge, in units of a cosine. Default 0.2, VSE++ and DSVE.
        projection_layers: linear layers from the encoders' vectors to the shared space, 1, or 2 with a ReLU between
            (ConVIRT). Regions and words always have one.
        image_pooling: "mean" over the last feature map, or "selective", DSVE's: a 1 x 1 convolution, in each channel
            the mean of the largest values plus the mean of the smallest, and dropout of 0.5.
        pooled_regions: how many of the largest, and of the smallest, selective pooling takes; all, of a map that has
            fewer. Default 15, DSVE.
        initializer_range: standard deviation of the normal that initializes the projections.
        pos_weight: weight of the positives of each class in the loss of a multi-label `GloriaForImageClassification`.
            None: 1.

    Raises:
        TypeError: a configuration is neither a dict with "model_type" nor a `PretrainedConfig`; an unknown field in
        `local_score`.
        ValueError: a width, count, weight, margin or scale out of range; an unknown loss or pooling; `region_stage`
        unknown to the image encoder.
    """

    model_type = "gloria"
    sub_configs: ClassVar = {"image_config": AutoConfig, "text_config": AutoConfig}
    # What Trainer.predict would otherwise collect over a whole data set: regions and words fill the memory.
    keys_to_ignore_at_inference: ClassVar = [
        "global_loss",
        "local_loss",
        "region_embeds",
        "word_embeds",
        "word_lengths",
    ]

    def __init__(
        self,
        image_config: PretrainedConfig | dict[str, Any] | None = None,
        text_config: PretrainedConfig | dict[str, Any] | None = None,
        projection_dim: int = 768,
        region_stage: str | None = None,
        last_layers: int = 4,
        normalize_local: bool = False,
        local_score: LocalScore | dict[str, Any] | None = None,
        learnable_attention_scale: bool = False,
        learnable_word_scale: bool = False,
        local_loss: LocalLoss = "contrastive",
        local_bias: float = SIGLIP_BIAS,
        local_weight: float = 1.0,
        global_weight: float = 1.0,
        global_scale: float = 10.0,
        global_loss: GlobalLoss = "contrastive",
        global_image_weight: float = 0.5,
        margin: float = 0.2,
        projection_layers: int = 1,
        image_pooling: ImagePooling = "mean",
        pooled_regions: int = 15,
        initializer_range: float = 0.02,
        pos_weight: list[float] | None = None,
        **kwargs: Any,
    ) -> None:
        self.image_config = _encoder_config("image_config", image_config, ResNetConfig)
        self.text_config = _encoder_config("text_config", text_config, BertConfig)
        self.projection_dim = projection_dim
        self.region_stage = _choose_regions(self.image_config, region_stage)
        self.last_layers = last_layers
        self.normalize_local = normalize_local
        self.local_score = asdict(_released_but(local_score))
        self.learnable_attention_scale = learnable_attention_scale
        self.learnable_word_scale = learnable_word_scale
        self.local_loss = local_loss
        self.local_bias = local_bias
        self.local_weight = local_weight
        self.global_weight = global_weight
        self.global_scale = global_scale
        self.global_loss = global_loss
        self.global_image_weight = global_image_weight
        self.margin = margin
        self.projection_layers = projection_layers
        self.image_pooling = image_pooling
        self.pooled_regions = pooled_regions
        self.initializer_range = initializer_range
        self.pos_weight = pos_weight
        self._check()
        super().__init__(**kwargs)

    @property
    def score(self) -> LocalScore:
        """The local score as `gloria_ops` takes it, with the numbers that training begins with."""
        return LocalScore(**self.local_score)

    def _check(self) -> None:
        if self.region_stage is None and not hasattr(self.image_config, "patch_size"):
            raise ValueError(
                f"image_config is a {type(self.image_config).__name__}, with neither stages nor a patch_size; expected "
                "that of an encoder that transformers' AutoBackbone has, or of a vision transformer (of a model of two "
                "modalities, its vision_config)"
            )
        if self.projection_dim < 1:
            raise ValueError(f"projection_dim is {self.projection_dim}; expected a width of at least 1, such as 768")
        available = self.text_config.num_hidden_layers + 1
        if not 1 <= self.last_layers <= available:
            raise ValueError(
                f"last_layers is {self.last_layers}, but the text encoder has {available} layers to sum (with its "
                f"embeddings); choose 1 to {available}"
            )
        if not abs(self.local_bias) < float("inf"):
            raise ValueError(f"local_bias is {self.local_bias}; expected a finite number, such as {SIGLIP_BIAS:g}")
        for name in ("local_weight", "global_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}; expected a finite number of at least 0")
        if self.local_weight == 0 and self.global_weight == 0:
            raise ValueError("local_weight and global_weight are both 0, so nothing is trained; raise one of them")
        for name, usual in (("global_scale", 10), ("margin", 0.2)):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}; expected a finite number above 0, such as {usual}")
        if not 0 <= self.global_image_weight <= 1:
            raise ValueError(f"global_image_weight is {self.global_image_weight}; expected a share, 0 to 1")
        known = {
            "local_loss": get_args(LocalLoss),
            "global_loss": get_args(GlobalLoss),
            "projection_layers": (1, 2),
            "image_pooling": get_args(ImagePooling),
        }
        for name, choices in known.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected {' or '.join(map(repr, choices))}")
        if self.pooled_regions < 1:
            raise ValueError(f"pooled_regions is {self.pooled_regions}; expected at least 1, such as 15")


def _encoder_config(name: str, given: Any, default: type[PretrainedConfig]) -> PretrainedConfig:
    if given is None:
        return default()
    if isinstance(given, PretrainedConfig):
        return deepcopy(given)  # the stages to return are noted in it below, which is not for the caller to see
    if isinstance(given, dict) and "model_type" in given:
        return AutoConfig.for_model(**given)
    raise TypeError(
        f'{name} is {given!r}; expected a transformers configuration or its dict with "model_type", '
        "as AutoConfig.from_pretrained(...) returns it"
    )


def _choose_regions(image_config: PretrainedConfig, region_stage: str | None) -> str | None:
    """Return the stage of the regions, noted in the image configuration as the backbone's output; None = patch
    tokens.
    """
    stages = getattr(image_config, "stage_names", [])
    # Only encoders with a pyramid of stages declare "depths" (blocks per stage); the stages of a plain vision
    # transformer with a backbone class (DINOv2) are its layers, all of one resolution.
    if region_stage is None and not (stages and hasattr(image_config, "depths")):
        return None
    chosen = region_stage or "stage3"
    if chosen not in stages:
        raise ValueError(
            f"region_stage is {chosen!r}, but {type(image_config).__name__} has the stages {stages}; "
            "name one of them, or leave region_stage out for the patch tokens of a vision transformer"
        )
    last = stages[-1]
    image_config.out_features = [chosen] if chosen == last else [chosen, last]
    return chosen


def _released_but(given: LocalScore | dict[str, Any] | None) -> LocalScore:
    if isinstance(given, LocalScore):
        return given
    given = given or {}
    known = [field.name for field in fields(LocalScore)]
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise TypeError(f"local_score has the unknown fields {unknown}; LocalScore has {known}")
    return replace(LocalScore.released(), **given)


AutoConfig.register(GloriaConfig.model_type, GloriaConfig, exist_ok=True)
