"""Parameter names of user encoders, towers and heads in published code, and ours.

PixelRec and NineRec's copies of it, IDvs.MoRec, NineRec, and ODMT's user encoders use these names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_MOREC = r"user_encoder\.transformer_encoder\."
_BLOCK = rf"{_MOREC}transformer_blocks\.(\d+)\."
_ATTENTION = {"w_Q": "query", "w_K": "key", "w_V": "value", "fc": "dense"}

_RULES: tuple[tuple[str, str], ...] = (
    (r"position_embedding\.(.+)", r"user_encoder.positions.\1"),
    (r"LayerNorm\.(.+)", r"user_encoder.norm.\1"),
    (r"trm_encoder\.(.+)", r"user_encoder.layers.\1"),
    (rf"{_MOREC}position_embedding\.(.+)", r"user_encoder.positions.\1"),
    (rf"{_MOREC}layer_norm\.(.+)", r"user_encoder.norm.\1"),
    *(
        (
            rf"{_BLOCK}multi_head_attention\.{theirs}\.(.+)",
            rf"user_encoder.layers.layer.\1.multi_head_attention.{ours}.\2",
        )
        for theirs, ours in _ATTENTION.items()
    ),
    (
        rf"{_BLOCK}multi_head_attention\.layer_norm\.(.+)",
        r"user_encoder.layers.layer.\1.multi_head_attention.LayerNorm.\2",
    ),
    (
        rf"{_BLOCK}feed_forward\.w_(\d)\.(.+)",
        r"user_encoder.layers.layer.\1.feed_forward.dense_\2.\3",
    ),
    (
        rf"{_BLOCK}feed_forward\.layer_norm\.(.+)",
        r"user_encoder.layers.layer.\1.feed_forward.LayerNorm.\2",
    ),
    (r"(?:user_encoder\.)?gru_layers\.(.+)", r"user_encoder.gru.\1"),
    (r"dense\.(.+)", r"user_encoder.output.\1"),
    (r"(?:user_encoder\.)?residual_blocks\.(.+)", r"user_encoder.blocks.\1"),
    (r"final_layer\.(.+)", r"user_encoder.output.\1"),
    (r"mask_emb", "user_encoder.mask_vector"),
    (r"gnn\.b_iah", "user_encoder.gnn.incoming_bias"),
    (r"gnn\.b_oah", "user_encoder.gnn.outgoing_bias"),
    (r"gnn\.w_(ih|hh)", r"user_encoder.gnn.gate.weight_\1"),
    (r"gnn\.b_(ih|hh)", r"user_encoder.gnn.gate.bias_\1"),
    (r"gnn\.linear_edge_in\.(.+)", r"user_encoder.gnn.incoming.\1"),
    (r"gnn\.linear_edge_out\.(.+)", r"user_encoder.gnn.outgoing.\1"),
    (r"linear_one\.(.+)", r"user_encoder.newest.\1"),
    (r"linear_two\.(.+)", r"user_encoder.each.\1"),
    (r"linear_three\.(.+)", r"user_encoder.weight.\1"),
    (r"linear_transform\.(.+)", r"user_encoder.output.\1"),
    (r"attention\.dense\.(.+)", r"weight.\1"),  # DIN
    (r"pred\.(.+)", r"objective.head.\1"),  # CESASRec
    (r"user_embedding\.weight", "user_encoder.embedding.weight"),
)
_TOWERS = {  # lists of Dropout, Linear, (BatchNorm,) activation per layer
    "mlp_layers": "user_encoder.tower",
    "user_mlp_layers": "user_encoder.tower",
    "item_mlp_layers": "item_tower",
    "user_encoder.MLP": "user_encoder.tower",
    "id_encoder.MLP": "item_tower",
    "attention.att_mlp_layers": "attention",  # DIN
}


def user_names(names: Iterable[str]) -> dict[str, str]:
    """Published name -> ours, of what belongs to the user side; other names are left out.

    Args:
        names: all names of one model's state.

    Example:
        >>> user_names(["LayerNorm.bias", "mlp_layers.mlp_layers.4.weight"])
        {'LayerNorm.bias': 'user_encoder.norm.bias', \
'mlp_layers.mlp_layers.4.weight': 'user_encoder.tower.1.1.weight'}
    """
    names = list(names)
    found = {}
    for name in names:
        ours = _tower(name, names) or _first(name)
        if ours is not None:
            found[name] = ours
    return found


def _first(name: str) -> str | None:
    for pattern, ours in _RULES:
        match = re.fullmatch(pattern, name)
        if match:
            return match.expand(ours)
    return None


def _tower(name: str, names: list[str]) -> str | None:
    for theirs, ours in _TOWERS.items():
        match = re.fullmatch(rf"{re.escape(theirs)}\.mlp_layers\.(\d+)\.(.+)", name)
        if match:
            number = int(match[1])
            normed = any(n.startswith(f"{theirs}.") and "running_mean" in n for n in names)
            layer, place = divmod(number, 4 if normed else 3)
            return f"{ours}.{layer}.{place}.{match[2]}"
    return None
