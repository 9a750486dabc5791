"""Types and meaning of every setting that this package reads (defaults live in ``properties/``)."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from recbole_morec.errors import suggest
from recbole_morec.sizes import read_size

Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Pooling = Literal["default", "cls", "first", "mean", "pooler", "masked_mean", "project_mean"]
Activation = Literal["relu", "gelu", "tanh", "sigmoid", "leaky_relu", "none"]
Hidden = list[Positive] | Literal["none"]


def _size(value: float | str) -> float | str:
    """The value as it is: written into a run folder it means the same again."""
    try:
        read_size(value)
    except ValueError as error:
        raise PydanticCustomError("size", str(error)) from error
    return value


def _distinct(values: list[str]) -> list[str]:
    if len({*values}) < len(values):
        raise PydanticCustomError("distinct", "a value stands twice")
    return values


Size = Annotated[float | str, AfterValidator(_size)]


class _Settings(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=False, protected_namespaces=())


class RunSettings(_Settings):
    """Settings of every run, whatever the model."""

    data_path: str
    protocol: Literal["pixelrec", "ninerec", "morec", "recbole"]
    MAX_ITEM_LIST_LENGTH: Positive
    min_user_inter: NonNegative
    truncate_history: NonNegative
    history_mask: Literal["full", "truncated", "none"]
    catalogue: Literal["interactions", "content"]
    eval_mode: Annotated[str, Field(pattern=r"^(full|uni[1-9]\d*|pop[1-9]\d*)$")]
    image_field: str | None
    text_fields: list[str] | None
    text_store: bool
    missing_content: Literal["error", "blank"]
    bad_images: Literal["error", "blank"]
    image_cache_gb: Annotated[float, Field(ge=0)] | None
    worker: NonNegative
    seed: NonNegative
    epochs: NonNegative
    train_batch_size: Positive
    learner: Literal["adam", "adamw", "sgd", "adagrad", "rmsprop"]
    learning_rate: Rate
    weight_decay: Annotated[float, Field(ge=0)] | None
    mixed_precision: Literal["no", "bf16", "fp16"]
    accumulation_steps: Positive
    scheduler: Literal["constant", "cosine", "linear", "step"]
    warmup_ratio: Share
    scheduler_step_size: Positive
    scheduler_gamma: Share
    clip_grad_norm: Rate | dict[str, Any] | None
    eval_step: Positive
    stopping_step: NonNegative
    checkpoint_dir: str
    resume: bool
    keep_memory: bool
    use_gpu: bool
    show_progress: bool
    log_interval: Positive
    log_tensorboard: bool
    log_wandb: bool
    wandb_project: str
    metrics: list[str]
    topk: list[Positive]
    valid_metric: str
    eval_batch_size: Positive
    metric_decimal_place: NonNegative
    popularity_buckets: NonNegative


class ItemEncoderSettings(_Settings):
    """Settings of an item encoder, in a model of ours or in one of RecBole's."""

    item_encoder: str | list[str]
    image_encoder: str
    text_encoder: str
    pretrained: bool | dict[str, bool] | None
    attention: Literal["auto", "sdpa", "eager"]
    pooling: Pooling | dict[str, Pooling]
    activation: Activation | dict[str, Activation]
    projection_layers: Hidden | dict[str, Hidden]
    projection_dropout: Share | dict[str, Share]
    train_layers: str | list[str] | dict[str, str | list[str]]
    adapter_rank: Positive
    adapter_alpha: Rate
    adapter_dropout: Share
    adapter_targets: list[str] | dict[str, list[str]] | None
    batch_norm: Literal["frozen", "train"]
    encoder_dropout: Share | None
    image_size: Positive | dict[str, Positive] | None
    resize: Literal["squash", "crop", "pad"]
    tokenizer: str | None
    max_text_length: Positive
    text_fields_as: Literal["joined", "averaged"]
    text_buckets: bool | Literal["auto"]
    features: str | None
    codes: str | None
    fusion: Literal[
        "sum", "linear_sum", "concat", "film", "gated", "co_attention", "merged_attention"
    ]
    fusion_projection: bool | None
    fusion_blocks: Positive
    fusion_heads: Positive
    fusion_inner_size: Positive | None
    store_states: bool | Literal["auto"]
    states_dtype: Literal["bf16", "fp16", "fp32"] | None
    catalogue_per_step: NonNegative
    load: str | dict[str, str] | None
    encoder_learning_rate: Rate
    encoder_weight_decay: Annotated[float, Field(ge=0)]
    projection_group: Literal["recommender", "encoder"]
    encode_chunk: Positive | None
    fit_memory: Size | None


class MultimodalSettings(ItemEncoderSettings):
    """Settings of our models."""

    micro_batch: Positive | None
    transform: Literal["native", "paper"]
    embedding_size: Positive
    encode: Literal["distinct", "every_slot"]
    share_encoding: bool
    pad_vector: Literal["zero", "encoded"]
    mask_vector: Literal["learned", "encoded"]
    user_encoder: str
    n_layers: Positive
    n_heads: Positive
    inner_size: Positive | None
    hidden_dropout_prob: Share
    attn_dropout_prob: Share
    hidden_act: Literal["gelu", "relu", "swish", "tanh", "sigmoid"]
    layer_norm_eps: Rate
    attention_bias: bool
    initializer: Literal["normal", "xavier_normal"]
    initializer_range: Rate
    hidden_multiplier: Positive
    output_layer: bool | None
    kernel_size: Positive
    block_num: Positive
    dilations: Annotated[list[Positive], Field(min_length=1)]
    k_interests: Positive
    step: Positive
    tower_layers: list[Positive]
    tower_activation: Activation
    tower_batch_norm: bool
    item_tower: bool
    objective: str
    reduction: Literal["sum", "mean"] | None
    temperature: Rate
    popularity_correction: Annotated[float, Field(ge=0)]
    mask_own_history: bool
    gather_negatives: bool
    bpr_epsilon: Annotated[float, Field(ge=0)]
    bpr_epsilon_place: Literal["inside", "outside"]
    bce_average: Literal["sides", "cells"]
    gbce_calibration: Share
    negatives: Positive | None
    negatives_shared: bool
    negative_distribution: Literal["uniform", "popularity"]
    negative_exponent: Annotated[float, Field(ge=0)]
    negatives_avoid: Literal["window", "history"]
    window: Literal["windows", "last", "prefixes"]
    window_remainder: Literal["keep", "drop"]
    target_slots: Literal["all", "last"]
    mask_ratio: Annotated[float, Field(gt=0, lt=1)]
    din_layers: Annotated[list[Positive], Field(min_length=1)]
    din_penalty: Annotated[float, Field(ge=0)]
    visrank_method: Literal["average_top_k", "maximum", "average"]
    visrank_top: Positive
    branches: Annotated[
        list[Literal["id", "text", "image"]], Field(min_length=1), AfterValidator(_distinct)
    ]
    item_transformer: bool
    item_transformer_layers: Positive
    item_transformer_heads: Positive
    item_transformer_mask: Literal["v1", "full"]
    id_embedding_size: Positive | None
    id_init: Literal["random", "mean", "text", "image"]
    tie_cls_feature: bool
    fusion_weights: Literal["mean", "learned"]
    states_layer: int | dict[Literal["text", "image"], int] | None
    distillation_temperature: Rate
    distillation_alpha: Annotated[float, Field(ge=0)]
    distillation_ramp: Literal["epoch", "step"]
    distillation_detach: bool
    distillation_divergence: Literal["cross_entropy", "kl"]


def setting_names() -> set[str]:
    """Names of all settings of this package."""
    return set(RunSettings.model_fields) | set(MultimodalSettings.model_fields)


def check(
    values: dict[str, Any], *, multimodal: bool, item_encoder: bool = False
) -> tuple[dict[str, Any], list[str]]:
    """Validate and convert the settings in ``values``.

    Args:
        values: the settings of a run.
        multimodal: it is a run of a model of ours.
        item_encoder: it is a run of one of RecBole's models with an item encoder.

    Returns:
        The converted values of the settings, and one sentence per problem.
    """
    converted: dict[str, Any] = {}
    problems: list[str] = []
    schemas: list[type[BaseModel]] = [RunSettings]
    if multimodal or item_encoder:
        schemas.append(MultimodalSettings if multimodal else ItemEncoderSettings)
    for schema in schemas:
        try:
            converted |= schema.model_validate(values).model_dump()
        except ValidationError as error:
            problems += sentences(error, values)
    return converted, problems


def sentences(
    error: ValidationError, values: Mapping[str, Any], told: Collection[str] = ()
) -> list[str]:
    """One sentence per wrong value, with a suggestion where few values are allowed.

    Args:
        error: what a schema says.
        values: what it was given.
        told: settings whose problems are told elsewhere.
    """
    found: dict[str, list[str]] = {}
    options: dict[str, list[str]] = {}
    for detail in error.errors():
        key = str(detail["loc"][0])
        if key in told:
            continue
        missing = detail["type"] == "missing"
        reason = "it is not set" if missing else detail["msg"][0].lower() + detail["msg"][1:]
        found.setdefault(key, []).append(reason)
        expected = detail.get("ctx", {}).get("expected", "")
        options.setdefault(key, []).extend(re.findall(r"'([^']*)'", expected))
    for reasons in found.values():
        # Settings by modality may be a dictionary too, which is rarely what was meant.
        others = [reason for reason in reasons if "valid dictionary" not in reason]
        reasons[:] = others or reasons
    return [
        f"{key}={values.get(key)!r}: {' or '.join(dict.fromkeys(reasons))}."
        + suggest(str(values.get(key)), options[key])
        for key, reasons in found.items()
    ]
