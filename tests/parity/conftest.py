"""Golden tensors of the published implementations, and how ours are compared with them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from recbole_morec.item_encoders import registry

from . import stand_ins

HERE = Path(__file__).parent / "goldens"


def pytest_addoption(parser):
    parser.addoption("--goldens", type=Path, default=HERE, help="folder of golden tensors")


def goldens_in(folder: Path) -> list[str]:
    """Names such as ``pixelrec/sasrec`` of all goldens of a folder."""
    return sorted(f"{path.parent.name}/{path.stem}" for path in folder.glob("*/*.npz"))


def folder_of(config: pytest.Config) -> Path:
    """The folder that is checked.

    Raises:
        pytest.UsageError: it holds no golden, so that nothing would be checked.
    """
    folder = config.getoption("--goldens")
    if not goldens_in(folder):
        raise pytest.UsageError(
            f"--goldens {folder}: there are no goldens (<system>/<name>.npz and .json) in it."
        )
    return folder


def pytest_collection_modifyitems(config):
    folder_of(config)


class Golden:
    """One golden: what was fed to a published model, its weights, and what came out.

    Args:
        folder: of all goldens.
        name: such as ``pixelrec/sasrec``.
    """

    def __init__(self, folder: Path, name: str):
        self.facts = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        self.sizes = self.facts["hyper_parameters"]
        with np.load(folder / f"{name}.npz", allow_pickle=False) as arrays:
            self._arrays = {key: arrays[key] for key in arrays}

    def __contains__(self, key: str) -> bool:
        return key in self._arrays

    def keys(self, prefix: str) -> list[str]:
        """Names of the arrays that begin with ``prefix``."""
        return [key for key in self._arrays if key.startswith(prefix)]

    def array(self, key: str) -> np.ndarray:
        """An array as it is, of words for example."""
        return self._arrays[key]

    def tensor(self, key: str) -> Tensor:
        """An array; numbers as float64, the precision of the published results."""
        found = torch.from_numpy(self._arrays[key])
        return found.double() if found.is_floating_point() else found

    def state(self, names: dict[str, str]) -> dict[str, Tensor]:
        """Weights under our names: every pair of a published prefix and ours."""
        state = {}
        for key in self._arrays:
            for theirs, ours in names.items():
                if key.startswith(f"param/{theirs}"):
                    state[ours + key.removeprefix(f"param/{theirs}")] = self.tensor(key)
                    break
        return state

    def gradient_norms(self) -> dict[str, float]:
        """Published parameter name -> norm of its gradient, without those that are zero."""
        zero = set(self.facts.get("numerically_zero_gradients", []))
        pairs = zip(self._arrays["grad_norm_names"], self._arrays["grad_norm_values"], strict=True)
        return {str(name): float(value) for name, value in pairs if str(name) not in zero}


@pytest.fixture
def golden(request):
    folder = folder_of(request.config)

    def load(name: str) -> Golden:
        if not (folder / f"{name}.npz").exists():
            if folder == HERE:
                pytest.fail(f"{folder} has no {name}")
            pytest.skip(f"{folder} has no {name}")
        return Golden(folder, name)

    return load


@pytest.fixture(autouse=True)
def encoders_that_stand_in(monkeypatch):
    """Known to these tests alone."""
    for table in ("_CARDS", "_ALIASES", "_BUILDERS"):
        monkeypatch.setattr(registry, table, dict(getattr(registry, table)))
    stand_ins.register("parity_stand_in", stand_ins.StandIn)
    stand_ins.register("parity_like_resnet", stand_ins.LikeResNet)


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def close(ours: Tensor, theirs: Tensor, relative: float = 1e-9, absolute: float = 1e-9) -> None:
    torch.testing.assert_close(ours, theirs, rtol=relative, atol=absolute)
