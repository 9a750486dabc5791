"""Where a transfer's tensors come from: a run folder, a checkpoint, a file of published code."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from recbole_morec.errors import CheckpointError
from recbole_morec.training.checkpoint import read_checkpoint
from recbole_morec.transfer.parts import PARTS, Source
from recbole_morec.transfer.published import our_state

_CONFIG = "REC.config.configurator.Config"  # an object in PixelRec's checkpoints
# What BERT and CLIP have behind their last layer; ours are built without it where nothing reads it.
_HEAD = re.compile(r"\.backbone\.(pooler|post_layernorm)\.")
_STATES = ("state_dict", "model_state_dict")


def requested(load: str | Mapping[str, str]) -> dict[str, Path]:
    """Part -> path, of the setting ``load``: a path for all parts, or a path by part."""
    paths = load if isinstance(load, Mapping) else dict.fromkeys(PARTS, load)
    return {part: Path(path).expanduser() for part, path in paths.items()}


def run_folder_of(path: Path) -> Path | None:
    """The run folder that ``path`` is, or that it is a checkpoint of; ``None`` for a file."""
    folders = (path, path.parent) if path.is_dir() else ()
    return next((folder for folder in folders if (folder / "config.yaml").is_file()), None)


def open_source(path: Path, like: Mapping[str, Tensor]) -> Source:
    """Read the tensors at ``path``: a run folder (its best state), a checkpoint folder, or the
    checkpoint of PixelRec, IDvs.MoRec, NineRec or ODMT.

    Args:
        path: folder or file.
        like: the state of the model that they are for.

    Raises:
        CheckpointError: there is nothing there, or it cannot be read safely.
    """
    if path.is_dir():
        tensors, state = read_checkpoint(path / "best" if run_folder_of(path) == path else path)
        return Source(str(path), tensors, tokens=state.get("tokens"))
    if not path.is_file():
        raise CheckpointError(
            f"load: {path} does not exist; give a run folder, or a checkpoint of published code."
        )
    tensors, unknown = our_state(read_published(path), like)
    heads = [name for name in tensors if name not in like and _HEAD.search(name)]
    kept = {name: tensor for name, tensor in tensors.items() if name not in heads}
    return Source(str(path), kept, (*unknown, *heads))


class _Ignored:
    """Stands for an object in a published checkpoint that is no tensor, and forgets its state."""

    def __setstate__(self, state: Any) -> None: ...


def read_published(path: Path) -> dict[str, Tensor]:
    """The model's state in a ``.pth``, ``.pt`` or ``.safetensors`` file of published code.

    Nothing in the file is executed: only tensors and plain values are read.

    Raises:
        CheckpointError: it is damaged, holds other objects, or no state of a model.
    """
    try:
        if path.suffix == ".safetensors":
            document: Any = load_file(path)
        else:
            with torch.serialization.safe_globals([(_Ignored, _CONFIG)]):
                document = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(_unreadable(path, error)) from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"load: {path} holds more than tensors and plain values, which could run code when it "
            "is read. Save its state dict alone, with torch.save(model.state_dict(), path)."
        ) from error
    for key in _STATES:
        if isinstance(document, Mapping) and isinstance(document.get(key), Mapping):
            document = document[key]
    tensors = isinstance(document, Mapping) and all(
        isinstance(value, Tensor) for value in document.values()
    )
    if not tensors or not document:
        raise CheckpointError(f"load: {path} holds no state dict of a model.")
    return {str(name).removeprefix("module."): value for name, value in document.items()}


def _unreadable(path: Path, error: Exception) -> str:
    reason = str(error).strip().splitlines()
    return f"load: {path} cannot be read: {reason[0] if reason else type(error).__name__}."
