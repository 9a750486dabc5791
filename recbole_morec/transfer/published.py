"""Checkpoints of PixelRec, IDvs.MoRec, NineRec and ODMT under the names of our models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from recbole_morec.transfer.published_items import item_names
from recbole_morec.transfer.published_odmt import odmt_branch, odmt_item_key
from recbole_morec.transfer.published_users import user_names

_MASK = "user_encoder.mask_vector"
_USERS = "user_encoder.embedding.weight"
# Created there and read by nothing.
_UNUSED = ("gnn.linear_edge_f.", "IMT.layer_norm.", "IMT.token_type_embeddings.")
_VBPR = ("user_id_embedding.weight", "user_modal_embedding.weight")
_FROZEN_FAMILY = {
    "feature_projection.weight": "visual.weight",
    "bias_projection.weight": "visual_bias.weight",
    "item_id_embedding.weight": "item_embedding.weight",
    "item_model.weight": "item_embedding.weight",
    "selu_common1": "shared.0",
    "selu_common2": "shared.2",
    "selu_pu1": "user_encoder.layers.0",
    "selu_pu2": "user_encoder.layers.2",
    "selu_pu3": "user_encoder.layers.4",
    "user_model.user_embedding": "user_encoder.embedding",
    "user_model.feats.dim_reductor": "region",
    "user_model.feats.w_x": "user_encoder.region_of",
    "user_model.feats.w_u": "user_encoder.region_user",
    "user_model.feats.w": "user_encoder.region_weight",
    "user_model.w_u": "user_encoder.item_user",
    "user_model.w_p": "user_encoder.item_free",
    "user_model.w_x": "user_encoder.item_seen",
    "user_model.w": "user_encoder.item_weight",
}


def system_of(names: Iterable[str]) -> str:
    """Whose code wrote a state of these names: pixelrec, idvsmorec, ninerec or odmt."""
    names = list(names)

    def some(*starts: str) -> bool:
        return any(name.startswith(starts) for name in names)

    if some("IMT."):
        return "odmt"
    marks = ("text_encoder.", "fusion_module.", "visual_encoder.bert_model.", "visual_encoder.fc.")
    if some(*marks) or any(".nlp_model." in name for name in names):
        return "ninerec"
    if some("bert_encoder.", "cv_encoder.", "id_embedding.", "turn_dim.", "fc.fc."):
        return "idvsmorec"
    return "pixelrec"


def published_names(names: Iterable[str], system: str | None = None) -> dict[str, str]:
    """Published name -> ours, of every tensor that has a counterpart."""
    names = list(names)
    system = system or system_of(names)
    if system == "odmt":
        return {name: ours for name in names if (ours := _odmt(name)) is not None}
    own = {name: ours for name in names if (ours := _frozen(name)) is not None}
    return {**user_names(names), **item_names(system, names), **own}


def our_state(
    tensors: Mapping[str, Tensor], like: Mapping[str, Tensor], system: str | None = None
) -> tuple[dict[str, Tensor], list[str]]:
    """A published state under our names.

    Beside names two things differ. Where the published BERT4Rec keeps its mask as the last row of
    the item table, ours holds it apart. Where an ID table stands for two sides at once (PixelRec's
    DSSM), ours has it once.

    Args:
        tensors: the published state.
        like: the state of the model that it is for.
        system: whose code wrote it; found from the names where it is not given.

    Returns:
        Tensors by our names, and published names without a counterpart.
    """
    names = published_names(tensors, system)
    state = {ours: tensors[theirs] for theirs, ours in names.items()}
    unknown = [n for n in tensors if n not in names and n not in _VBPR and not _is_unused(n)]
    if all(name in tensors for name in _VBPR):
        state[_USERS] = torch.cat([tensors[name] for name in _VBPR], dim=1)
    if _USERS in state and _USERS not in like and "user_embedding.weight" in tensors:
        del state[_USERS]  # the item table, for its second purpose
    table = next((name for name in state if name.endswith("item_encoder.embedding.weight")), None)
    if table is not None and _MASK in like and _MASK not in state:
        state[_MASK] = state[table][-1].clone()
        if table in like:
            state[table] = state[table][: len(like[table])]
    return state, unknown


def _is_unused(name: str) -> bool:
    return name.startswith(_UNUSED) or name == "user_model.profile_embedding.weight"


def _frozen(name: str) -> str | None:
    if name in _FROZEN_FAMILY:
        return _FROZEN_FAMILY[name]
    module, _, last = name.rpartition(".")
    return f"{_FROZEN_FAMILY[module]}.{last}" if module in _FROZEN_FAMILY else None


def _odmt(name: str) -> str | None:
    branch = odmt_branch(name)
    if branch is None:
        return odmt_item_key(name)
    theirs = f"user_encoder.{branch[1]}"
    ours = user_names([theirs])[theirs]
    return ours.replace("user_encoder.", f"user_encoder.{branch[0]}.", 1)
