"""``load``: the published checkpoint of every model fills the whole of ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from recbole_morec.models.base import MultimodalRecommender
from recbole_morec.transfer.parts import load_parts
from recbole_morec.transfer.sources import open_source, requested

from . import test_din as din
from . import test_frozen_models as frozen
from . import test_item_encoders as items
from . import test_lightgcn as lightgcn
from . import test_models as models
from . import test_odmt as odmt
from .conftest import Golden

Filled = tuple[MultimodalRecommender, Callable[[], Any]]


def sequential(model: models.Model) -> Callable[[Golden, Path], Filled]:
    def fill(data: Golden, folder: Path) -> Filled:
        built = models.build(model, data, folder)
        return built, lambda: models.scores(built, data, models.case_of(model.name))

    return fill


def on_features(published: frozen.Published) -> Callable[[Golden, Path], Filled]:
    def fill(data: Golden, folder: Path) -> Filled:
        built = frozen.filled(published, data, folder)
        return built, lambda: frozen.scores(built, data)[1]

    return fill


def with_attention(name: str) -> Callable[[Golden, Path], Filled]:
    def fill(data: Golden, folder: Path) -> Filled:
        built = din.build(name, data, folder)
        return built, lambda: din.scores(built, data)

    return fill


def with_graph(data: Golden, folder: Path) -> Filled:
    built = lightgcn.filled(data)
    return built, lambda: lightgcn.scores(built, data)


def with_branches(data: Golden, folder: Path) -> Filled:
    built = odmt.build(data)
    return built, lambda: odmt.scores(built, data)[1]


# Golden -> ours with the published weights, and the scores that it gives.
MODELS: dict[str, Callable[[Golden, Path], Filled]] = {
    **{model.name: sequential(model) for model in models.MODELS},
    **{f"pixelrec/{one.name}": on_features(one) for one in frozen.MODELS},
    **{name: with_attention(name) for name in din.NAMES},
    lightgcn.NAME: with_graph,
    **{f"odmt/{name}": with_branches for name in odmt.NAMES},
}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("name", MODELS)
def test_a_published_checkpoint_fills_the_whole_model(name, golden, tmp_path):
    data = golden(name)
    model, scores = MODELS[name](data, tmp_path)
    expected = {key: value.clone() for key, value in model.state_dict().items()}
    expected_scores = scores()
    torch.save(data.state({"": ""}), tmp_path / "published.pth")
    with torch.no_grad():
        for value in model.state_dict().values():
            value.copy_(value + 1)

    sources = {
        part: open_source(path, model.state_dict())
        for part, path in requested(str(tmp_path / "published.pth")).items()
    }
    done = load_parts(model, sources, "", model.rows_by_id(), by_name=False)

    no_part = items.unused(model.item_encoder, "item_encoder.")
    assert set(done.fresh) <= no_part | features(model)
    for key, value in model.state_dict().items():
        assert key in done.fresh or torch.equal(value, expected[key]), key
    found = scores()
    if isinstance(found, dict):
        assert all(torch.equal(found[key], expected_scores[key]) for key in expected_scores)
    else:
        assert torch.equal(found, expected_scores)


def features(model: MultimodalRecommender) -> set[str]:
    """Names of buffers that hold data, not what was learned."""
    return {f"item_encoder.{name}" for name, _ in model.item_encoder.named_buffers()}
