"""Checkpoints: safetensors and JSON in a folder that is whole or absent; nothing is pickled."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from recbole_morec.errors import CheckpointError

_MODEL, _OPTIMIZER, _STATE = "model.safetensors", "optimizer.safetensors", "state.json"


def save_checkpoint(
    folder: Path,
    *,
    model: nn.Module,
    extra: dict[str, Any],
    state: dict[str, Any],
    optimizer: Optimizer | None = None,
) -> None:
    """Write a checkpoint beside ``folder`` and move it into place when it is complete.

    Args:
        folder: where it shall stand; an older one there is replaced.
        model: its parameters and persistent buffers are saved.
        extra: further tensors and scalars of the model (RecBole's ``other_parameter``).
        state: JSON-able state of the run.
        optimizer: saved where training shall go on from here.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    tensors = {f"model.{name}": _own(value) for name, value in model.state_dict().items()}
    tensors |= {f"extra.{name}": _own(v) for name, v in extra.items() if isinstance(v, Tensor)}
    save_file(tensors, partial / _MODEL)
    scalars = {name: v for name, v in extra.items() if not isinstance(v, Tensor)}
    document = {"state": state, "extra": scalars}
    if optimizer is not None:
        optimizer_tensors, document["optimizer"] = _flatten(optimizer.state_dict())
        save_file(optimizer_tensors, partial / _OPTIMIZER)
    (partial / _STATE).write_text(json.dumps(document, indent=1), encoding="utf-8")
    for path in partial.iterdir():
        _sync(path)
    _replace(partial, folder)


def load_checkpoint(
    folder: Path, *, model: nn.Module, optimizer: Optimizer | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fill ``model`` (and ``optimizer``) from a checkpoint.

    Returns:
        The state of the run and the model's further tensors and scalars.

    Raises:
        CheckpointError: there is none, it is damaged, or a tensor is missing, unexpected or of
            another shape; the message lists them.
    """
    folder = find_checkpoint(folder)
    tensors, document = _read(folder)
    state, extra = dict(document["state"]), dict(document["extra"])
    parameters = _of_model(tensors)
    _check_fit(folder, parameters, model.state_dict())
    model.load_state_dict(parameters)
    extra |= {k.removeprefix("extra."): v for k, v in tensors.items() if k[:6] == "extra."}
    if optimizer is not None:
        if "optimizer" not in document:
            raise CheckpointError(f"Checkpoint {folder} holds no optimizer state to resume from.")
        try:
            flat = load_file(folder / _OPTIMIZER)
            optimizer.load_state_dict(_unflatten(flat, document["optimizer"]))
            _lay_out(optimizer)
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise CheckpointError(
                f"The optimiser state of {folder} is damaged or does not fit ({error}). Train "
                "again without --resume."
            ) from error
    return state, extra


def read_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The model's tensors by name and the state of the run, without a model to fill.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    folder = find_checkpoint(folder)
    tensors, document = _read(folder)
    return _of_model(tensors), dict(document["state"])


def _read(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        tensors = load_file(folder / _MODEL)
        document = json.loads((folder / _STATE).read_text(encoding="utf-8"))
        dict(document["state"]), dict(document["extra"])
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"Checkpoint {folder} is damaged ({error}). Train again without --resume."
        ) from error
    return tensors, document


def _of_model(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix("model."): v for k, v in tensors.items() if k[:6] == "model."}


def find_checkpoint(folder: Path) -> Path:
    """The checkpoint at ``folder``, or the older one that a crash left beside it.

    Raises:
        CheckpointError: there is neither.
    """
    for candidate in (folder, folder.with_name(f".{folder.name}.old")):
        if (candidate / _STATE).exists():
            return candidate
    raise CheckpointError(
        f"There is no checkpoint at {folder}: the run ended before its first evaluation, or the "
        "folder was cleared. Train the run again."
    )


def _check_fit(folder: Path, found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    problems = [f"missing: {name}" for name in wanted.keys() - found.keys()]
    problems += [f"unexpected: {name}" for name in found.keys() - wanted.keys()]
    problems += [
        f"{name}: checkpoint {tuple(found[name].shape)}, model {tuple(wanted[name].shape)}"
        for name in found.keys() & wanted.keys()
        if found[name].shape != wanted[name].shape
    ]
    if problems:
        shown = "; ".join(sorted(problems)[:8])
        more = f" (and {len(problems) - 8} more)" if len(problems) > 8 else ""
        raise CheckpointError(
            f"Checkpoint {folder} does not fit this model: {shown}{more}. It was written by a run "
            "with other settings or another dataset; evaluate it with the config.yaml beside it."
        )


def _own(tensor: Tensor) -> Tensor:
    """A contiguous copy on the CPU (safetensors refuses shared memory)."""
    return tensor.detach().cpu().contiguous().clone()


def _flatten(state: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split an optimiser state into tensors by name and JSON."""
    tensors, scalars = {}, {}
    for index, values in state["state"].items():
        scalars[str(index)] = {}
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = _own(value)
            else:
                scalars[str(index)][name] = value
    return tensors, {"state": scalars, "param_groups": state["param_groups"]}


def _unflatten(tensors: dict[str, Tensor], document: dict[str, Any]) -> dict[str, Any]:
    state = {int(index): dict(values) for index, values in document["state"].items()}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state[int(index)][name] = value
    return {"state": state, "param_groups": document["param_groups"]}


def _lay_out(optimizer: Optimizer) -> None:
    """Give each state the strides of its parameter.

    Files hold contiguous tensors, and a fused optimiser walks parameter (channels-last, perhaps)
    and state in the order of memory, whatever their strides.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            values = optimizer.state.get(parameter, {})
            for name, value in values.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    values[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _replace(partial: Path, folder: Path) -> None:
    old = folder.with_name(f".{folder.name}.old")
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.replace(folder, old)  # until the next line, find_checkpoint takes the old one
    os.replace(partial, folder)
    shutil.rmtree(old, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
