"""``encoder_dropout``: one dropout rate for the whole backbone, in place of its own."""

from __future__ import annotations

from typing import Any

from torch import nn

_DEPTH_NAMES = ("drop_path", "layerdrop", "layer_drop", "stochastic_depth", "drop_connect")


def set_dropout(backbone: nn.Module, rate: float) -> None:
    """Set every dropout rate of ``backbone`` to ``rate``.

    Stochastic depth (drop path, layer drop) is another thing than dropout: it is switched off
    by a rate of 0 and left as it is otherwise.
    """
    for module in backbone.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = rate
            continue
        for name, value in list(vars(module).items()):
            if not isinstance(value, float) or not _is_rate(name):
                continue
            if not _is_depth(name):
                setattr(module, name, rate)
            elif rate == 0:
                setattr(module, name, 0.0)


def set_config_dropout(config: Any, rate: float) -> None:
    """The same on a ``transformers`` config, before the model is made from it."""
    for name, value in list(vars(config).items()):
        if hasattr(value, "to_dict"):
            set_config_dropout(value, rate)
        elif isinstance(value, float) and _is_rate(name):
            if not _is_depth(name):
                setattr(config, name, rate)
            elif rate == 0:
                setattr(config, name, 0.0)


def _is_rate(name: str) -> bool:
    return "drop" in name and "scale" not in name


def _is_depth(name: str) -> bool:
    return any(part in name for part in _DEPTH_NAMES) or name == "drop_prob"
