"""Checkpoints of PixelRec, IDvs.MoRec, NineRec and ODMT under the names of our models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from recbole_morec.transfer.published_frozen import frozen_names, holds_features
from recbole_morec.transfer.published_items import item_names
from recbole_morec.transfer.published_odmt import odmt_branch, odmt_item_key
from recbole_morec.transfer.published_users import user_names

_MASK = "user_encoder.mask_vector"
_USERS = "user_encoder.embedding.weight"
# Created there and read by nothing.
_UNUSED = ("gnn.linear_edge_f.", "IMT.layer_norm.", "IMT.token_type_embeddings.")


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
    found = {**user_names(names), **item_names(system, names), **frozen_names(names)}
    return {theirs: ours for theirs, ours in found.items() if not holds_features(theirs, names)}


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
    unknown = [n for n in tensors if n not in names and not _is_unused(n)]
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


def _odmt(name: str) -> str | None:
    branch = odmt_branch(name)
    if branch is None:
        return odmt_item_key(name)
    theirs = f"user_encoder.{branch[1]}"
    ours = user_names([theirs])[theirs]
    return ours.replace("user_encoder.", f"user_encoder.{branch[0]}.", 1)
