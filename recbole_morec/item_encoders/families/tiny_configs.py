"""Tiny configs for every ``transformers`` model type, made by shrinking its defaults.

A config is made from its class with small numbers for the fields whose names say what they
count: widths, layers, heads, vocabulary, image and patch size. Nested configs (text and vision
towers) are shrunk the same way.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from recbole_morec.item_encoders.families.changes import CHANGES

WIDTH = 32
HEADS = 2
VOCABULARY = 128
IMAGE = 32
PATCH = 8

_WIDTHS = {
    *("hidden_size", "d_model", "n_embd", "embed_dim", "dim", "hidden_dim", "decoder_hidden_size"),
    *("encoder_hidden_size", "embedding_size", "projection_dim", "word_embed_proj_dim", "d_embed"),
    *("emb_dim", "out_hidden_size", "vision_hidden_size", "text_hidden_size", "d_embedding"),
    *("fpn_hidden_size", "mask_feature_size", "feature_size", "encoder_hidden_dim", "n_hidden"),
    *("shared_representation_size", "model_dim", "pooler_hidden_size", "true_hidden_size"),
    *("adapter_in_dim", "adapter_out_dim", "adapter_input_size"),
    *("audio_hidden_size", "hidden_size_global"),
}
_INNER = {
    *("intermediate_size", "ffn_dim", "d_ff", "encoder_ffn_dim", "decoder_ffn_dim", "n_inner"),
    *("dim_feedforward", "moe_intermediate_size", "shared_expert_intermediate_size", "mlp_dim"),
    *("feed_forward_proj_dim", "ffn_hidden_size", "feedforward_dim", "shared_intermediate_size"),
    *("decoder_intermediate_size", "ff_dim", "inner_dim", "block_ff_dim", "expert_ffn_hidden_size"),
}
_LAYERS = {
    *("num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "depth"),
    *("decoder_layers", "num_decoder_layers", "num_encoder_layers", "decoder_num_hidden_layers"),
    *("num_blocks", "encoder_num_layers", "decoder_num_layers", "n_encoder_layers", "blocks"),
    *("speech_encoder_layers", "t2u_encoder_layers", "t2u_decoder_layers"),
}
_HEADS = {
    *("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads"),
    *("decoder_attention_heads", "num_key_value_heads", "decoder_num_attention_heads"),
    *("encoder_num_attention_heads", "num_kv_heads", "n_kv_heads", "linear_num_key_heads"),
    *("linear_num_value_heads", "attention_heads", "mamba_n_heads", "num_query_heads"),
}
_FIXED: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 64,
    "n_positions": 64,
    "image_size": IMAGE,
    "patch_size": PATCH,
    "head_dim": WIDTH // HEADS,
    "d_kv": WIDTH // HEADS,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "sep_token_id": 2,
    "cls_token_id": 1,
    "mask_token_id": 3,
    "unk_token_id": 3,
    "decoder_start_token_id": 1,
    "moe_k": 2,
    "moe_topk": 2,
    "num_experts_per_token": 2,
    "n_group": 1,
    "topk_group": 1,
    "type_vocab_size": 2,
    "vocab_size_per_layer_input": VOCABULARY,
    "rotary_dim": 8,
    "use_cache": False,
    "layerdrop": 0.0,
}


_EVEN_IF_NONE = {"vocab_size", "head_dim", "pad_token_id", "bos_token_id", "eos_token_id"}


def tiny_config(config_class: type, changes: dict[str, Any] | None = None) -> Any:
    """Return a config of ``config_class`` that makes a model of some ten thousand parameters.

    Args:
        config_class: a ``transformers`` config class.
        changes: values that shrinking by name does not find, by field name; those of nested
            configs as dicts.
    """
    return config_class(**tiny_values(config_class, changes))


def tiny_values(config_class: type, changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the keyword arguments of :func:`tiny_config`."""
    changes = {**CHANGES.get(config_class.model_type, {}), **(changes or {})}
    values: dict[str, Any] = {}
    nested = {name: cls for name, cls in (config_class.sub_configs or {}).items() if cls}
    default = None
    names = [field.name for field in fields(config_class)]
    for name in names:
        if name in nested:
            continue
        small = shrink(name, getattr(config_class, name, None))
        if small is not None:
            values[name] = small
    for name, cls in nested.items():
        if cls.__name__ == "AutoConfig":
            default = default or config_class()
            part = getattr(default, name, None)
            if part is None:
                continue
            values[name] = {
                "model_type": part.model_type,
                **_outputs(part),
                **tiny_values(type(part), changes.pop(name, None)),
            }
        else:
            values[name] = tiny_values(cls, changes.pop(name, None))
    return {**values, **changes}


def _outputs(part: Any) -> dict[str, Any]:
    """Return which stages of a backbone a model reads, where these are not the backbone's own."""
    if part.model_type == "timm_backbone":
        return {"out_indices": part.out_indices}
    stages = getattr(part, "out_features", None)
    counted = {field.name for field in fields(type(part))} & _LAYERS
    if counted or stages == getattr(type(part)(), "out_features", None):
        return {}  # stages that are layers are fewer in a tiny config
    return {"out_features": stages}


def shrink(name: str, default: Any) -> Any:
    """Return a small value for the field ``name``, or None to keep its default."""
    plain = isinstance(default, int) and not isinstance(default, bool)
    if name in _FIXED and (default is not None or name in _EVEN_IF_NONE):
        return [_FIXED[name]] * len(default) if isinstance(default, list | tuple) else _FIXED[name]
    if name.endswith(("_token_id", "_token_index")):
        return 4 if plain else None
    sequence = isinstance(default, list | tuple) and all(isinstance(x, int) for x in default)
    if sequence and default:
        return _shrink_list(name, list(default))
    if name == "num_key_value_heads" and default is None:
        return HEADS  # a parent's __post_init__ has a number of its own for None (Voxtral)
    if not plain:
        return None
    if name in _WIDTHS:
        return WIDTH
    if name in _INNER:
        return 2 * WIDTH
    if name in _LAYERS:
        return 2
    if name in _HEADS:
        return HEADS
    return None


def _shrink_list(name: str, default: list[int]) -> list[int] | None:
    """Per-stage lists keep their length: widths double or stay, depths are one, heads are one."""
    if any(part in name for part in ("hidden_sizes", "embed_dims", "dims", "widths")):
        smallest = min(default)
        return [max(8, 8 * (size // smallest)) for size in default]
    if name in ("depths", "num_blocks", "layers", "num_encoder_blocks"):
        return [1] * len(default)
    if "heads" in name:
        return [1] * len(default)
    return None
