"""Which attention kernel an encoder runs with (``attention: auto``)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from recbole_morec.item_encoders.base import ItemEncoder, TextNeed

# On a CPU PyTorch's fused attention is the slower one for short sequences: at 50 tokens in bf16
# its way back takes ten times as long as plain products (docs/performance.md).
SHORT = 128


def choose_attention(encoder: ItemEncoder, device: torch.device) -> None:
    """Plain attention where the device is a CPU and items have at most :data:`SHORT` tokens.

    Models that know only their own attention are left as they are.
    """
    backbone = encoder.backbone
    if device.type != "cpu" or backbone is None:
        return
    tokens = _tokens(encoder, backbone)
    if tokens is None or tokens > SHORT:
        return
    if getattr(getattr(backbone, "config", None), "_attn_implementation", None) == "sdpa":
        backbone.set_attn_implementation("eager")
    for module in backbone.modules():  # timm
        if getattr(module, "fused_attn", False) is True:
            module.fused_attn = False


def _tokens(encoder: ItemEncoder, backbone: nn.Module) -> int | None:
    """Tokens of an item at most, where that is plain."""
    for need in encoder.needs:
        if isinstance(need, TextNeed):
            return need.max_length
        patch = getattr(getattr(backbone, "config", None), "patch_size", None)
        if patch is None:
            patch = getattr(getattr(backbone, "patch_embed", None), "patch_size", None)
            patch = patch[0] if isinstance(patch, tuple) else patch
        if isinstance(patch, int) and patch > 0:
            return (need.size // patch) ** 2 + 1
    return None


def attention_of(backbone: Any) -> str | None:
    """The kind in words, where the backbone tells."""
    kind = getattr(getattr(backbone, "config", None), "_attn_implementation", None)
    if kind is None:
        fused = {m.fused_attn for m in backbone.modules() if hasattr(m, "fused_attn")}
        kind = {True: "sdpa", False: "eager"}[fused.pop()] if len(fused) == 1 else None
    return kind
