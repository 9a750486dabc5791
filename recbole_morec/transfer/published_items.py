"""Parameter names of the item side in the code of PixelRec, IDvs.MoRec and NineRec, and ours.

What a name means can depend on the others: ``id_embedding`` is a table of its own, or a member of
a fusion where an encoder stands beside it. So all names of a checkpoint are translated together.
Names inside BERT, Swin, CLIP, BEiT and MAE are those of the installed ``transformers``; those of
older releases, which published checkpoints have, are translated too, and so are OpenAI's of CLIP's
ResNets, which are timm's here. Torchvision and timm name other ResNets alike.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

# A rule: pattern of a published name -> (member, our name within that member). The member is a
# modality, or "fusion" for what the fusion itself holds.
_Rule = tuple[str, str, "str | Callable[[re.Match], str]"]

_ENDING = r"(weight|bias)"


def _mlp(first: int) -> Callable[[re.Match], str]:
    """``mlp_layers.1``, ``.4``, ``.7`` (each after a Dropout, before an activation)."""
    return lambda found: f"projection.layers.{(int(found[1]) - 1) // 3 + first}.{found[2]}"


_PIXELREC: tuple[_Rule, ...] = (
    (rf"item_embedding\.rec_fc\.0\.{_ENDING}", "features", r"projection.layers.0.\1"),
    (rf"item_embedding\.rec_fc\.mlp_layers\.(\d+)\.{_ENDING}", "features", _mlp(0)),
    (r"item_embedding\.item_id_embedding\.weight", "id", "embedding.weight"),
    (r"item_embedding\.pq_code_embedding\.weight", "codes", "embedding.weight"),
    (r"(?:item_)?embedding\.weight", "id", "embedding.weight"),
    (rf"visual_encoder\.rec_fc\.0\.{_ENDING}", "image", r"projection.layers.0.\1"),
    (rf"visual_encoder\.rec_fc\.mlp_layers\.(\d+)\.{_ENDING}", "image", _mlp(0)),
    (rf"visual_encoder\.item_encoder\.fc\.0\.{_ENDING}", "image", r"projection.layers.0.\1"),
    (rf"visual_encoder\.item_encoder\.fc\.mlp_layers\.(\d+)\.{_ENDING}", "image", _mlp(0)),
    (r"visual_encoder\.item_encoder\.(?:item_encoder\.)?(.+)", "image", r"backbone.\1"),
)
_TEXT = r"(?:bert|nlp)_encoder\.text_encoders\.title\."
_VISION = r"cv_encoder\.image_net\."
_MOREC: tuple[_Rule, ...] = (
    (r"id_embedding\.weight", "id", "embedding.weight"),
    (rf"{_TEXT}(?:bert|nlp)_model\.(.+)", "text", r"backbone.\1"),
    (rf"{_TEXT}fc\.{_ENDING}", "text", r"projection.layers.0.\1"),
    (rf"{_VISION}(?:classifier|fc)\.{_ENDING}", "image", r"projection.layers.0.\1"),
    (rf"{_VISION}(?:swin\.|beit\.)?(.+)", "image", r"backbone.\1"),
    (rf"cv_encoder\.cv_proj\.{_ENDING}", "image", r"projection.layers.0.\1"),
)
_TWO_STAGE: tuple[_Rule, ...] = (
    (rf"(?:turn_dim|fc)\.fc\.{_ENDING}", "features", r"projection.layers.0.\1"),
    (rf"turn_dim\.mlp_layers\.mlp_layers\.(\d+)\.{_ENDING}", "features", _mlp(1)),
)
_SIDES = {"lang": "first", "visn": "second"}
_BERT = {  # BERT's names of a layer's parts, as LXMERT has them
    "query": "attention.query",
    "key": "attention.key",
    "value": "attention.value",
    "output.dense": "attention.output",
    "output.LayerNorm": "attention.norm",
}
_FEED = {"inter.dense": "up", "output.dense": "down", "output.LayerNorm": "norm"}


def _cross(found: re.Match) -> str:
    part = _BERT[found[2]].removeprefix("attention.")
    return f"join.blocks.{found[1]}.cross.{part}.{found[3]}"


def _side(found: re.Match) -> str:
    return f"join.blocks.{found[1]}.{_SIDES[found[2]]}.{_BERT[found[3]]}.{found[4]}"


def _side_feed(found: re.Match) -> str:
    return f"join.blocks.{found[1]}.{_SIDES[found[2]]}.feed_forward.{_FEED[found[3]]}.{found[4]}"


def _merged(found: re.Match) -> str:
    return f"join.blocks.{found[1]}.{_BERT[found[2]]}.{found[3]}"


def _merged_feed(found: re.Match) -> str:
    return f"join.blocks.{found[1]}.feed_forward.{_FEED[found[2]]}.{found[3]}"


_CO = r"fusion_module\.CoAtt_layers\.(\d+)\."
_MERGED = r"fusion_module\.MergeAtt_layers\.(\d+)\."
_LEARNED = r"(?:att\.|self\.)?(query|key|value|output\.dense|output\.LayerNorm)"
_ATTENTION: tuple[_Rule, ...] = (
    (rf"{_CO}visual_attention\.{_LEARNED}\.{_ENDING}", "fusion", _cross),
    (rf"{_CO}(lang|visn)_self_att\.{_LEARNED}\.{_ENDING}", "fusion", _side),
    (
        rf"{_CO}(lang|visn)_(inter\.dense|output\.dense|output\.LayerNorm)\.{_ENDING}",
        "fusion",
        _side_feed,
    ),
    (rf"{_MERGED}self_att\.{_LEARNED}\.{_ENDING}", "fusion", _merged),
    (
        rf"{_MERGED}(inter\.dense|output\.dense|output\.LayerNorm)\.{_ENDING}",
        "fusion",
        _merged_feed,
    ),
)
_NINEREC: tuple[_Rule, ...] = (
    *_ATTENTION,
    (r"text_encoder\.bert_model\.(.+)", "text", r"backbone.\1"),
    (rf"text_encoder\.text_proj\.{_ENDING}", "text", r"projection.layers.0.\1"),
    (r"visual_encoder\.bert_model\.(.+)", "text", r"backbone.\1"),
    (rf"visual_encoder\.fc\.{_ENDING}", "text", r"projection.layers.0.\1"),
    (rf"fusion_module\.fc_out\.{_ENDING}", "fusion", r"projection.layers.0.\1"),
    (rf"fusion_module\.fc\.{_ENDING}", "fusion", r"join.condition.\1"),
)

SYSTEMS = ("pixelrec", "idvsmorec", "ninerec")


def item_names(system: str, names: Iterable[str]) -> dict[str, str]:
    """Return our name of every published name that belongs to the item side.

    Args:
        system: one of :data:`SYSTEMS`.
        names: all names of one model's state.

    Returns:
        Published name -> ours, which begins with ``item_encoder.``. What is not there belongs to
        the user side, or has no counterpart (buffers that older releases of ``transformers`` kept).

    Example:
        >>> item_names("idvsmorec", ["id_embedding.weight", "cv_encoder.image_net.fc.bias"])
        {'id_embedding.weight': 'item_encoder.members.id.embedding.weight', \
'cv_encoder.image_net.fc.bias': 'item_encoder.members.image.projection.layers.0.bias'}
    """
    names = list(names)
    found: dict[str, tuple[str, str]] = {}
    rules = _rules(system, names)
    for name in names:
        for pattern, member, ours in rules:
            match = re.fullmatch(pattern, name)
            if match:
                found[name] = (member, match.expand(ours) if isinstance(ours, str) else ours(match))
                break
    siblings = [ours for _, ours in found.values()]
    several = len({member for member, _ in found.values()}) > 1
    result = {}
    for name, (member, ours) in found.items():
        if ours.startswith("backbone."):
            current = _current(ours.removeprefix("backbone."), siblings)
            if current is None:
                continue
            ours = f"backbone.{current}"
        inside = f"members.{member}." if several and member != "fusion" else ""
        result[name] = f"item_encoder.{inside}{ours}"
    return result


def _rules(system: str, names: list[str]) -> tuple[_Rule, ...]:
    if system == "pixelrec":
        hybrid = "item_embedding.item_id_embedding.weight" in names
        return tuple(
            (pattern, "fusion" if hybrid and member == "features" else member, ours)
            for pattern, member, ours in _PIXELREC
        )
    if system == "idvsmorec":
        return _idvsmorec(names)
    if system == "ninerec":
        gated = "fusion_module.fc_out.weight" in names
        x, y = ("gate", "value") if gated else ("maps.text", "maps.image")
        two_sided = any(name.startswith("fusion_module.CoAtt_layers.") for name in names)
        sides = (r"fusion_module\.token_type_embeddings\.weight", "fusion", "join.sides.weight")
        return (
            *((sides,) if two_sided else ()),  # merged attention has them and never reads them
            *_NINEREC,
            (rf"fusion_module\.fc_x\.{_ENDING}", "fusion", rf"join.{x}.\1"),
            (rf"fusion_module\.fc_y\.{_ENDING}", "fusion", rf"join.{y}.\1"),
            *_MOREC,
            *_PIXELREC,
        )
    raise ValueError(f"system {system!r} is none of {', '.join(SYSTEMS)}.")


def _idvsmorec(names: list[str]) -> tuple[_Rule, ...]:
    two_stage = any(name.startswith(("fc.fc.", "turn_dim.")) for name in names)
    if not two_stage:  # modal_cat and modal_cat_3
        return (*_MOREC, (rf"fc\.mlp_layers\.(\d+)\.{_ENDING}", "fusion", _mlp(0)))
    if not any(name.startswith("turn_dim.") for name in names):
        further = (rf"fc\.mlp_layers\.(\d+)\.{_ENDING}", "features", _mlp(1))
        return (*_TWO_STAGE, further, *_MOREC)
    # With turn_dim, `fc` joins and `mlp_layers` follows: one projection of ours.
    joining = sum(bool(re.fullmatch(r"fc\.mlp_layers\.\d+\.weight", name)) for name in names)
    return (
        *_TWO_STAGE,
        (rf"fc\.mlp_layers\.(\d+)\.{_ENDING}", "fusion", _mlp(0)),
        (rf"mlp_layers\.mlp_layers\.(\d+)\.{_ENDING}", "fusion", _mlp(joining)),
        *_MOREC,
    )


# --- inside the encoders -------------------------------------------------------------------------

_BUFFERS = re.compile(r"(^|\.)(position_ids|token_type_ids|relative_position_index)$")
_CLIP_RESNET = (  # OpenAI's names of its ResNets, and timm's
    (r"^(conv|bn)(\d)\.", lambda m: f"stem.conv{m[2]}.{m[1]}."),
    (
        r"^layer(\d)\.(\d+)\.(conv|bn)(\d)\.",
        lambda m: f"stages.{int(m[1]) - 1}.{m[2]}.conv{m[4]}_{_KERNELS[m[4]]}.{m[3]}.",
    ),
    (
        r"^layer(\d)\.(\d+)\.downsample\.(0|1)\.",
        lambda m: f"stages.{int(m[1]) - 1}.{m[2]}.shortcut.conv.{('conv', 'bn')[int(m[3])]}.",
    ),
    (r"^attnpool\.positional_embedding$", "head.pos_embed"),
    (r"^attnpool\.c_proj\.", "head.proj."),
    (r"^attnpool\.([qkv])_proj\.", r"head.\1."),
)
_KERNELS = {"1": "1x1", "2": "kxk", "3": "1x1"}
_OLD_LAYER = (  # of Swin within its blocks; of BEiT and MAE after `layers.N`
    (r"\.attention\.(?:self|attention)\.(q)uery\.", r".attention.\1_proj."),
    (r"\.attention\.(?:self|attention)\.(k)ey\.", r".attention.\1_proj."),
    (r"\.attention\.(?:self|attention)\.(v)alue\.", r".attention.\1_proj."),
    (r"\.attention\.output\.dense\.", ".attention.o_proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.attention\.attention\.relative_position_bias\.", ".relative_position_bias."),
    (
        r"\.attention\.self\.relative_position_bias_table",
        ".attention.relative_position_bias.relative_position_bias_table",
    ),
)


def _current(name: str, siblings: list[str]) -> str | None:
    """The name of a backbone's tensor in timm or the installed ``transformers``; None: a buffer of
    old.

    BERT has names like those of the older Swin to this day; ``siblings`` tell them apart.
    """
    if _BUFFERS.search(name):
        return None
    name = name.removeprefix("vision_model.")  # CLIP
    if "backbone.conv3.weight" in siblings:  # the third convolution of CLIP's stem
        for pattern, replacement in _CLIP_RESNET:
            name = re.sub(pattern, replacement, name)
        return name
    if any(".attention.attention." in sibling for sibling in siblings):  # BEiT, MAE
        name = re.sub(r"^encoder\.layer\.(?=\d)", "layers.", name)
        name = re.sub(r"^encoder\.(?=relative_position_bias\.)", "shared_position_bias.", name)
        name = name.replace("bias.relative_position_bias.", "bias.")
    if not re.match(r"layers\.\d+\.|encoder\.layers\.\d+\.blocks\.", name):
        return name
    for pattern, replacement in _OLD_LAYER:
        name = re.sub(pattern, replacement, name)
    return name
