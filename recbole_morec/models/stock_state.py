"""State of stock models beside their parameters (RecBole's ``other_parameter``), without pickle."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor, nn

from recbole_morec.errors import CheckpointError

_SPARSE = ("data", "indices", "indptr", "shape")
# Results that a model keeps between two calls; they are stale once the weights change.
_CACHES = ("restore_user_e", "restore_item_e", "i_embedding")
# Step counters of annealed losses (MultiVAE, MacridVAE, RaCT), which RecBole itself forgets.
_COUNTERS = ("update",)


def drop_caches(model: nn.Module) -> None:
    """Forget results that a model computed from earlier weights."""
    for name in _CACHES:
        if hasattr(model, name):
            setattr(model, name, None)


def read_state(model: nn.Module) -> dict[str, Tensor | int | float | str | None]:
    """The state that parameters do not hold, as tensors and scalars.

    Modules are left out (their parameters are in ``state_dict``), and so are caches. A sparse
    matrix becomes four tensors ``name.data``, ``name.indices``, ``name.indptr`` and ``name.shape``.

    Raises:
        CheckpointError: a value that cannot be written without pickle.
    """
    state: dict[str, Tensor | int | float | str | None] = {}
    for name in _names(model):
        value = getattr(model, name)
        if value is None or isinstance(value, Tensor | int | float | str):
            state[name] = value.detach() if isinstance(value, Tensor) else value
        elif isinstance(value, np.ndarray) and value.dtype != object:
            state[name] = torch.from_numpy(value)
        elif scipy.sparse.issparse(value):
            rows = value.tocsr()
            parts = (rows.data, rows.indices, rows.indptr, np.array(rows.shape))
            for part, array in zip(_SPARSE, parts, strict=True):
                state[f"{name}.{part}"] = torch.from_numpy(array)
        else:
            raise CheckpointError(
                f"{type(model).__name__}.{name} is a {type(value).__name__}, which cannot be saved "
                "without pickle."
            )
    return state


def write_state(model: nn.Module, state: dict[str, Any]) -> None:
    """Put a state of :func:`read_state` back; every value takes the kind that the model has.

    Raises:
        CheckpointError: a value of the model is missing in ``state``.
    """
    for name in _names(model):
        held = getattr(model, name)
        if scipy.sparse.issparse(held):
            parts = [_get(state, model, f"{name}.{part}").cpu().numpy() for part in _SPARSE]
            rows = scipy.sparse.csr_matrix(tuple(parts[:3]), shape=tuple(parts[3]))
            setattr(model, name, rows.asformat(held.format))
            continue
        value = _get(state, model, name)
        if isinstance(held, np.ndarray):
            value = value.cpu().numpy()
        elif isinstance(value, Tensor):
            value = value.to(held.device if isinstance(held, Tensor) else model.device)
        setattr(model, name, value)


def _names(model: nn.Module) -> list[str]:
    named = list(getattr(model, "other_parameter_name", []))
    named += [name for name in _COUNTERS if isinstance(getattr(model, name, None), int)]
    return [
        name
        for name in named
        if name not in _CACHES and not isinstance(getattr(model, name), nn.Module)
    ]


def _get(state: dict[str, Any], model: nn.Module, key: str) -> Any:
    if key not in state:
        raise CheckpointError(
            f"The checkpoint of {type(model).__name__} has no {key!r}: it was written for another "
            "model or is incomplete."
        )
    return state[key]
