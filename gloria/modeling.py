"""GloriaModel: an image and a text encoder, tied by a global loss on vectors and a local one on regions and words."""

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING
from transformers.utils import ModelOutput

from gloria.configuration import GloriaConfig
from gloria.features import image_class, image_maps, image_widths
from gloria.projections import SelectivePooling, projection
from gloria.words import mean_pieces, sum_last_layers, sum_pieces
from gloria_ops import LocalScore, cosines, hinge_loss, in_micro_batches
from gloria_ops.distributed import GlobalContrastiveLoss, LocalContrastiveLoss, LocalSigmoidLoss, contrasted_pairs
from gloria_ops.distributed.agreement import rank_count
from gloria_ops.modules import LogitBias, Scale, total


@dataclass
class GloriaOutput(ModelOutput):
    """What `GloriaModel.forward` returns. B texts and images, D wide; losses are scalars, float32.

    Attributes:
        loss: global_weight * global_loss + local_weight * local_loss; None without `return_loss`.
        global_loss: image-to-text and text-to-image InfoNCE, or hinge, over the cosines of image_embeds and
            text_embeds, as the configuration says; None where its weight is 0.
        local_loss: image-to-text plus text-to-image loss over the local scores, or the sigmoid loss, as the
            configuration says; None where its weight is 0.
        image_embeds: (B, D), not normalized.
        region_embeds: (B, D, H, W), of unit length if the configuration has `normalize_local`.
        text_embeds: (B, D), not normalized.
        word_embeds: (B, L, D), as the regions; word 0 is [CLS], and words from `word_lengths` on are padding.
        word_lengths: (B,) int64.
    """

    loss: Tensor | None = None
    global_loss: Tensor | None = None
    local_loss: Tensor | None = None
    image_embeds: Tensor | None = None
    region_embeds: Tensor | None = None
    text_embeds: Tensor | None = None
    word_embeds: Tensor | None = None
    word_lengths: Tensor | None = None


class GloriaModel(PreTrainedModel):
    """GLoRIA on any transformers image and text encoder.

    Regions are the feature map of `config.region_stage` under a 1 x 1 convolution (no bias), the image vector is the
    pooled last stage under a linear layer, as in the released code. Of a vision transformer, regions are the patch
    tokens and the image vector is the pooled output (the class token where there is no pooler, else the mean of the
    patches). Words and sentences are sums over the last hidden layers (`gloria.words`); they pass through one linear
    layer each (no bias) where the width of the text encoder is not D, and through none where it is, as in the released
    code. Other objectives (`gloria.objectives`) pool images, project the vectors and tie them otherwise.

    Attributes:
        micro_batch_size: pairs that `forward` encodes at once, for batches beyond memory; backward then encodes each
            micro-batch again, and batch statistics are those of a micro-batch (`gloria_ops.in_micro_batches`). A
            setting of the machine, not of the model: it is not saved. None: the whole batch at once.
        hardest_negatives: of a hinge, whether the hardest wrong text and image alone count, or all of them; not saved.
            The hardest alone collapse a model from scratch, so `GloriaTrainer` begins with all.
    """

    config: GloriaConfig
    config_class = GloriaConfig
    base_model_prefix = "gloria"
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # the loss is a mean over the batch, not a sum for Trainer to divide by a count
    _supports_sdpa = True
    _supports_flash_attn = True
    micro_batch_size: int | None = None
    hardest_negatives: bool = True

    def __init__(
        self,
        config: GloriaConfig,
        image_encoder: PreTrainedModel | None = None,
        text_encoder: PreTrainedModel | None = None,
    ) -> None:
        # An encoder built already keeps its own configuration, which its layers hold too: given another one, it would
        # choose its attention mask by that, and its layers their attention by their own.
        if image_encoder is not None:
            config.image_config = image_encoder.config
        if text_encoder is not None:
            config.text_config = text_encoder.config
        super().__init__(config)
        self.image_encoder = image_encoder or image_class(config).from_config(config.image_config)
        self.text_encoder = text_encoder or AutoModel.from_config(config.text_config)
        # The text pooler is never used: kept, it would be an unused parameter in distributed training.
        if "add_pooling_layer" in inspect.signature(type(self.text_encoder).__init__).parameters:
            self.text_encoder.pooler = None

        width = config.projection_dim
        region_width, image_width = image_widths(self.image_encoder, config)
        self.region_projection = nn.Conv2d(region_width, width, kernel_size=1, bias=False)
        self.image_pooling = None
        if config.image_pooling == "selective":
            self.image_pooling = SelectivePooling(image_width, width, config.pooled_regions)
            image_width = width
        self.image_projection = projection(image_width, width, config.projection_layers)
        text_width = config.text_config.hidden_size
        same = text_width == width
        self.word_projection = nn.Identity() if same else nn.Linear(text_width, width, bias=False)
        self.text_projection: nn.Module
        if config.projection_layers == 1:
            self.text_projection = nn.Identity() if same else nn.Linear(text_width, width, bias=False)
        else:
            self.text_projection = projection(text_width, width, config.projection_layers)

        learned: dict[str, Any] = {
            "learnable_attention_scale": config.learnable_attention_scale,
            "learnable_word_scale": config.learnable_word_scale,
        }
        self.local_contrast = (
            LocalSigmoidLoss(config.score, logit_bias=config.local_bias, **learned)
            if config.local_loss == "sigmoid"
            else LocalContrastiveLoss(config.score, **learned)
        )
        self.global_contrast = GlobalContrastiveLoss(logit_scale=config.global_scale)
        self.post_init()

    @classmethod
    def from_image_text_pretrained(
        cls, image_name_or_path: str, text_name_or_path: str, local_files_only: bool = False, **config_kwargs: Any
    ) -> "GloriaModel":
        """Return a model in float32 from two pretrained encoders; the projections are new.

        Args:
            image_name_or_path: hub name or local directory of the image encoder, e.g. "microsoft/resnet-50".
            text_name_or_path: hub name or local directory of the text encoder, e.g. "emilyalsentzer/Bio_ClinicalBERT".
            local_files_only: look at local directories and the cache only.
            config_kwargs: fields of `GloriaConfig`.
        """
        config = GloriaConfig(
            image_config=AutoConfig.from_pretrained(image_name_or_path, local_files_only=local_files_only),
            text_config=AutoConfig.from_pretrained(text_name_or_path, local_files_only=local_files_only),
            **config_kwargs,
        )
        image_class: Any = AutoModel
        if config.region_stage is not None:
            # Not AutoBackbone.from_pretrained: that asks the hub whether the name exists, even of a local directory.
            image_class = MODEL_FOR_BACKBONE_MAPPING[type(config.image_config)]
        image_encoder = image_class.from_pretrained(
            image_name_or_path, config=config.image_config, dtype=torch.float32, local_files_only=local_files_only
        )
        text_encoder = AutoModel.from_pretrained(
            text_name_or_path, config=config.text_config, dtype=torch.float32, local_files_only=local_files_only
        )
        return cls(config, image_encoder, text_encoder)

    @property
    def learned_score(self) -> LocalScore:
        """The local score, with the scales that have been learned."""
        return self.local_contrast.learned_score

    def get_image_features(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Return the embeddings of whole images and of their regions.

        Args:
            pixel_values: (B, 3, height, width), as `GloriaProcessor` gives them.

        Returns:
            image_embeds (B, D), not normalized, and region_embeds (B, D, H, W), of unit length if the configuration
            has `normalize_local`.
        """
        region_features, last_map, image_features = image_maps(self.image_encoder, pixel_values, self.config)
        if self.image_pooling is not None:
            image_features = self.image_pooling(last_map)
        region_embeds = self._normalize_local(self.region_projection(region_features), dim=1)
        return self.image_projection(image_features), region_embeds

    def get_text_features(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        word_ids: Tensor,
        token_type_ids: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the embeddings of whole texts and of their words.

        Args:
            input_ids: (B, L) int64, as the tokenizer gives them.
            attention_mask: (B, L), 0 = padding.
            word_ids: (B, L) int64: index of each piece's word, -1 = none; see `gloria.words.sum_pieces`.
            token_type_ids: (B, L) int64, for encoders that take them.

        Returns:
            text_embeds (B, D), not normalized, word_embeds (B, L, D), of unit length if the configuration has
            `normalize_local`, and word_lengths (B,) int64.
        """
        segments = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        encoded = self.text_encoder(
            input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True, **segments
        )
        pieces = sum_last_layers(encoded.hidden_states, self.config.last_layers)
        words, word_lengths = sum_pieces(pieces, word_ids)
        text_embeds = self.text_projection(mean_pieces(pieces, attention_mask))
        return text_embeds, self._normalize_local(self.word_projection(words), dim=-1), word_lengths

    def forward(
        self,
        pixel_values: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        word_ids: Tensor,
        token_type_ids: Tensor | None = None,
        report_ids: Tensor | None = None,
        return_loss: bool = True,
    ) -> GloriaOutput:
        """Encode B images and their B reports, and contrast every image with every report.

        In distributed training the losses are those of all ranks' images and reports (`gloria_ops.distributed`), so
        every rank must come here; with `return_loss=False` a rank may encode alone.

        Args:
            pixel_values: (B, 3, height, width).
            input_ids: (B, L) int64.
            attention_mask: (B, L), 0 = padding.
            word_ids: (B, L) int64, see `get_text_features`.
            token_type_ids: (B, L) int64, for encoders that take them.
            report_ids: (B,) int64. Rows with equal ids, on whatever ranks, carry equal reports and are not negatives of
                one another: those pairs take no part in any of the losses. None: every row has its own report.
            return_loss: compute the losses. True by default, since Trainer evaluates no loss otherwise.
        """
        image_embeds, region_embeds = in_micro_batches(
            self.get_image_features, pixel_values, self.micro_batch_size, self.image_encoder
        )
        texts = (input_ids, attention_mask, word_ids, token_type_ids)
        text_embeds, word_embeds, word_lengths = in_micro_batches(
            self.get_text_features, texts, self.micro_batch_size, self.text_encoder
        )
        loss = global_loss = local_loss = None
        if return_loss:
            if self.config.global_weight:
                global_loss = self._global_loss(image_embeds, text_embeds, report_ids)
                loss = self.config.global_weight * global_loss
            if self.config.local_weight:
                # Under autocast the two sides need not have come out in one dtype, which the scores ask for.
                words = word_embeds.to(region_embeds.dtype)
                local_loss = total(
                    self.local_contrast(region_embeds, words, word_lengths=word_lengths, report_ids=report_ids)
                )
                weighted = self.config.local_weight * local_loss
                loss = weighted if loss is None else loss + weighted
        return GloriaOutput(
            loss=loss,
            global_loss=global_loss,
            local_loss=local_loss,
            image_embeds=image_embeds,
            region_embeds=region_embeds,
            text_embeds=text_embeds,
            word_embeds=word_embeds,
            word_lengths=word_lengths,
        )

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, Scale | LogitBias):  # of a checkpoint that was trained with another loss
            module.reset_parameters()

    def _normalize_local(self, projected: Tensor, dim: int) -> Tensor:
        return nn.functional.normalize(projected, dim=dim) if self.config.normalize_local else projected

    def _global_loss(self, image_embeds: Tensor, text_embeds: Tensor, report_ids: Tensor | None) -> Tensor:
        if self.config.global_loss == "contrastive":
            image_to_text, text_to_image = self.global_contrast(image_embeds, text_embeds, report_ids=report_ids)
            weight = 2 * self.config.global_image_weight
            return weight * image_to_text + (2 - weight) * text_to_image
        if rank_count(None) > 1:
            raise NotImplementedError(
                f"global_loss is 'hinge' on {rank_count(None)} processes, but a hinge contrasts the images and reports "
                "of one process only; train on one, or with the global_loss 'contrastive'"
            )
        scores = cosines(image_embeds, text_embeds)
        if report_ids is not None:
            scores = scores.masked_fill(~contrasted_pairs(report_ids, report_ids, 0), -torch.inf)
        return hinge_loss(scores, margin=self.config.margin, max_violation=self.hardest_negatives)


AutoModel.register(GloriaConfig, GloriaModel, exist_ok=True)
