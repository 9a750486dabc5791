"""Parameter names of PixelRec's models on frozen features and of its LightGCN, and ours."""

from __future__ import annotations

import re
from collections.abc import Iterable

from recbole_morec.transfer.published_items import item_names

_ENDING = r"(weight|bias)"
_RULES: dict[str, tuple[tuple[str, str], ...]] = {
    "VBPR": (
        (r"feature_projection\.weight", "visual.weight"),
        (r"bias_projection\.weight", "visual_bias.weight"),
        (r"item_id_embedding\.weight", "item_embedding.weight"),
        (r"user_id_embedding\.weight", "user_encoder.free.weight"),
        (r"user_modal_embedding\.weight", "user_encoder.visual.weight"),
    ),
    "ACF": (
        (
            r"item_model\.weight",
            "item_embedding.weight",
        ),  # also profile_embedding
        (r"user_model\.user_embedding\.weight", "user_encoder.embedding.weight"),
        (
            rf"user_model\.feats\.dim_reductor\.{_ENDING}",
            r"item_encoder.projection.layers.0.\1",
        ),
        (rf"user_model\.feats\.w_u\.{_ENDING}", r"user_encoder.region_user.\1"),
        (rf"user_model\.feats\.w_x\.{_ENDING}", r"user_encoder.region_own.\1"),
        (rf"user_model\.feats\.w\.{_ENDING}", r"user_encoder.region_weight.\1"),
        (rf"user_model\.w_u\.{_ENDING}", r"user_encoder.item_user.\1"),
        (rf"user_model\.w_p\.{_ENDING}", r"user_encoder.item_free.\1"),
        (rf"user_model\.w_x\.{_ENDING}", r"user_encoder.item_seen.\1"),
        (rf"user_model\.w\.{_ENDING}", r"user_encoder.item_weight.\1"),
    ),
    "CuratorNet": (  # `embedding` is the table of features
        (rf"selu_common1\.{_ENDING}", r"shared.0.\1"),
        (rf"selu_common2\.{_ENDING}", r"shared.2.\1"),
        (rf"selu_pu1\.{_ENDING}", r"user_encoder.layers.0.\1"),
        (rf"selu_pu2\.{_ENDING}", r"user_encoder.layers.2.\1"),
        (rf"selu_pu3\.{_ENDING}", r"user_encoder.layers.4.\1"),
    ),
    "FSASRec": (  # the item side: `item_names`
        (r"position_embedding\.weight", "user_encoder.positions.weight"),
        (rf"LayerNorm\.{_ENDING}", r"user_encoder.norm.\1"),
        (rf"trm_encoder\.(.+)\.{_ENDING}", r"user_encoder.layers.\1.\2"),
    ),
    "LightGCN": (
        (r"user_embedding\.weight", "user_encoder.embedding.weight"),
        (r"item_embedding\.weight", "item_encoder.embedding.weight"),
    ),
}


def frozen_names(model: str, names: Iterable[str]) -> dict[str, str]:
    """Return our name of every published name of a model's state.

    Args:
        model: a model of ours, ``VBPR``, ``ACF``, ``CuratorNet``, ``FSASRec`` or ``LightGCN``.
        names: all names of the published state.

    Returns:
        Published name -> ours. What is not there has no counterpart: ACF's second name of its table
        of items, CuratorNet's table of features.

    Example:
        >>> frozen_names("VBPR", ["feature_projection.weight"])
        {'feature_projection.weight': 'visual.weight'}
    """
    names = list(names)
    found = item_names("pixelrec", names) if model == "FSASRec" else {}
    for name in names:
        for pattern, ours in _RULES[model]:
            match = re.fullmatch(pattern, name)
            if match:
                found[name] = match.expand(ours)
    return found
