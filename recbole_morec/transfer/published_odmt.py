"""Parameter names of ODMT's code (xyliugo/ODMT) and ours: the item side."""

from __future__ import annotations

import re

_BRANCHES = {"id": "id", "t": "text", "v": "image"}
_BLOCK = {
    "multi_head_attention.w_Q": "query",
    "multi_head_attention.w_K": "key",
    "multi_head_attention.w_V": "value",
    "multi_head_attention.fc": "output",
    "multi_head_attention.layer_norm": "attention_norm",
    "feed_forward.w_1": "up",
    "feed_forward.w_2": "down",
    "feed_forward.layer_norm": "norm",
}


def odmt_item_key(key: str) -> str | None:
    """Our name of a published parameter of the item side; ``None`` for others.

    ``IMT.layer_norm`` and ``IMT.token_type_embeddings`` are created and never used there; they have
    no counterpart.
    """
    if key == "id_encoder.weight":
        return "item_encoder.embedding.weight"
    if found := re.fullmatch(r"(id|text|image)_proj\.(weight|bias)", key):
        return f"item_encoder.transformer.inputs.{found[1]}.{found[2]}"
    if found := re.fullmatch(r"(id|t|v)_dnns\.(\d)\.(weight|bias)", key):
        return f"item_encoder.projection.{_BRANCHES[found[1]]}.{found[2]}.{found[3]}"
    if found := re.fullmatch(r"IMT\.transformer_blocks\.(\d+)\.(.+)\.(weight|bias)", key):
        return f"item_encoder.transformer.blocks.{found[1]}.{_BLOCK[found[2]]}.{found[3]}"
    return None


def odmt_branch(key: str) -> tuple[str, str] | None:
    """Branch and the rest of the name of a user encoder's parameter: as IDvs.MoRec's from there."""
    found = re.fullmatch(r"(id|t|v)_user_encoder\.(.+)", key)
    return (_BRANCHES[found[1]], found[2]) if found else None
