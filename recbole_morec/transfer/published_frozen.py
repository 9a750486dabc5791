"""Parameter names of PixelRec's models on frozen features, and ours: VBPR, ACF and CuratorNet.

FSASRec and LightGCN have the names of the other models.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_ENDING = r"(weight|bias)"
_VBPR = (
    (r"feature_projection\.weight", "visual.weight"),
    (r"bias_projection\.weight", "visual_bias.weight"),
    (r"item_id_embedding\.weight", "item_embedding.weight"),
    (r"user_id_embedding\.weight", "user_encoder.free.weight"),
    (r"user_modal_embedding\.weight", "user_encoder.visual.weight"),
)
_ACF = (
    (r"item_model\.weight", "item_embedding.weight"),  # also profile_embedding
    (r"user_model\.user_embedding\.weight", "user_encoder.embedding.weight"),
    (rf"user_model\.feats\.dim_reductor\.{_ENDING}", r"item_encoder.projection.layers.0.\1"),
    (rf"user_model\.feats\.w_u\.{_ENDING}", r"user_encoder.region_user.\1"),
    (rf"user_model\.feats\.w_x\.{_ENDING}", r"user_encoder.region_own.\1"),
    (rf"user_model\.feats\.w\.{_ENDING}", r"user_encoder.region_weight.\1"),
    (rf"user_model\.w_u\.{_ENDING}", r"user_encoder.item_user.\1"),
    (rf"user_model\.w_p\.{_ENDING}", r"user_encoder.item_free.\1"),
    (rf"user_model\.w_x\.{_ENDING}", r"user_encoder.item_seen.\1"),
    (rf"user_model\.w\.{_ENDING}", r"user_encoder.item_weight.\1"),
)
_CURATORNET = (
    (rf"selu_common1\.{_ENDING}", r"shared.0.\1"),
    (rf"selu_common2\.{_ENDING}", r"shared.2.\1"),
    (rf"selu_pu1\.{_ENDING}", r"user_encoder.layers.0.\1"),
    (rf"selu_pu2\.{_ENDING}", r"user_encoder.layers.2.\1"),
    (rf"selu_pu3\.{_ENDING}", r"user_encoder.layers.4.\1"),
)


def frozen_names(names: Iterable[str]) -> dict[str, str]:
    """Published name -> ours, of what only these models have; other names are left out.

    Example:
        >>> frozen_names(["feature_projection.weight", "LayerNorm.bias"])
        {'feature_projection.weight': 'visual.weight'}
    """
    found = {}
    for name in names:
        for pattern, ours in (*_VBPR, *_ACF, *_CURATORNET):
            match = re.fullmatch(pattern, name)
            if match:
                found[name] = match.expand(ours)
    return found


def holds_features(name: str, names: Iterable[str]) -> bool:
    """Whether a tensor is CuratorNet's table of features, which are data here."""
    return name == "embedding.weight" and "selu_common1.weight" in names
