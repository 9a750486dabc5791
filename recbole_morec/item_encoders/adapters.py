"""``train_layers: lora | ia3``: small trained additions to a backbone that stands still (``peft``).

LoRA (Hu et al., 2022) adds ``(alpha / rank) B A x`` to the output of chosen linear layers, ``A`` of
``rank`` rows; (IA)3 (Liu et al., 2022) multiplies their keys, values and hidden units by learned
vectors. Both begin as the backbone itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from recbole_morec.errors import ConfigError
from recbole_morec.item_encoders.settings import ADAPTERS, EncoderSettings

# Last parts of the names that attention projections go by in timm and transformers.
_FUSED = {"qkv", "qkv_proj", "Wqkv", "c_attn", "query_key_value", "to_qkv", "in_proj"}
_QUERY = {"query", "q_proj", "query_proj", "q_lin", "q", "to_q"}
_KEY = {"key", "k_proj", "key_proj", "k_lin", "k", "to_k"}
_VALUE = {"value", "v_proj", "value_proj", "v_lin", "v", "to_v"}
_DOWN = {"fc2", "lin2", "wo", "down_proj"}  # from hidden units back; BERT: output.dense


def is_adapter(choice: str | list[str]) -> bool:
    """Whether a value of ``train_layers`` names a kind of adapter."""
    return isinstance(choice, str) and choice in ADAPTERS


def add_adapter(backbone: nn.Module, settings: EncoderSettings, owner: str) -> None:
    """Put adapters into ``backbone`` in place; all else of it stops to train.

    A layer ``x.query`` becomes ``x.query.base_layer`` with ``x.query.lora_A.default``,
    ``x.query.lora_B.default`` (or ``x.query.ia3_l.default``) beside it.

    Args:
        backbone: any model.
        settings: its ``train_layers`` is the kind; ``adapter_targets`` names the layers, empty
            means the projections of queries and values (LoRA), of keys, values and the second
            layer of each feed-forward part ((IA)3).
        owner: name of the item encoder, for messages.

    Raises:
        ConfigError: ``peft`` is not installed, or no layer is found.
    """
    try:
        import peft
    except ImportError as error:
        raise ConfigError(
            f"train_layers: {settings.train_layers} needs the package peft: "
            "pip install 'recbole-morec[peft]'."
        ) from error
    targets = _targets(backbone, settings, owner)
    kinds = {type(backbone.get_submodule(name)).__name__ for name in targets}
    turned = kinds == {"Conv1D"}  # GPT-2's linear layers keep their weights the other way round
    if settings.train_layers == "lora":
        config = peft.LoraConfig(
            r=settings.adapter_rank,
            lora_alpha=settings.adapter_alpha,
            lora_dropout=settings.adapter_dropout,
            target_modules=targets,
            fan_in_fan_out=turned,
        )
    else:
        down = [name for name in targets if _is_down(name)]
        config = peft.IA3Config(
            target_modules=targets, feedforward_modules=down, fan_in_fan_out=turned
        )
    try:
        peft.inject_adapter_in_model(config, backbone)
    except ValueError as error:
        raise ConfigError(f"adapter_targets: {owner}: {error}") from error


def adapter_dropouts(backbone: nn.Module) -> Iterator[nn.Module]:
    """Yield the dropouts of the adapters: all of a backbone with adapters that is in train mode."""
    for module in backbone.modules():
        dropout = getattr(module, "lora_dropout", None)
        if dropout is not None:
            yield dropout


def _targets(backbone: nn.Module, settings: EncoderSettings, owner: str) -> list[str]:
    names = [name for name, module in backbone.named_modules() if _is_linear(module)]
    if settings.adapter_targets is None:
        found = [name for name in names if _is_default(name, settings.train_layers)]
        if not found:
            raise ConfigError(
                f"train_layers: {settings.train_layers}: {owner} has no attention projections to "
                "adapt; name its layers in adapter_targets, for example "
                f"[{names[-1].rpartition('.')[2]!r}]."
            )
        return found
    problems, found = [], []
    for pattern in settings.adapter_targets:
        hits = [n for n in names if n.endswith(f".{pattern}") or fnmatchcase(n, pattern)]
        if not hits:
            problems.append(
                f"adapter_targets: no layer of {owner} is called {pattern!r}; its layers are "
                f"called {', '.join(_last_parts(names))}."
            )
        found += hits
    if problems:
        raise ConfigError(problems)
    return list(dict.fromkeys(found))


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | nn.Conv2d) or type(module).__name__ == "Conv1D"


def _is_default(name: str, kind: Any) -> bool:
    last = name.rpartition(".")[2]
    if kind == "lora":
        return last in _FUSED | _QUERY | _VALUE
    return last in _FUSED | _KEY | _VALUE or _is_down(name)


def _is_down(name: str) -> bool:
    of_bert = name.endswith(".output.dense") and not name.endswith("attention.output.dense")
    return of_bert or name.rpartition(".")[2] in _DOWN


def _last_parts(names: list[str]) -> list[str]:
    return list(dict.fromkeys(name.rpartition(".")[2] for name in names))
