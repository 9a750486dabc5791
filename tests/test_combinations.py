"""Every item encoder family x user encoder x objective: one step, evaluation, save and load."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import write_world

from recbole_morec.config import MoRecConfig
from recbole_morec.data.dataset import MultimodalDataset
from recbole_morec.data.loader import TrainLoader
from recbole_morec.errors import ConfigError
from recbole_morec.evaluation.evaluator import Evaluator
from recbole_morec.models.adapter import build_adapter
from recbole_morec.objectives import OBJECTIVES
from recbole_morec.training.checkpoint import load_checkpoint, save_checkpoint
from recbole_morec.user_encoders import USER_ENCODERS

ITEM_ENCODERS = {
    "id": {"item_encoder": "id"},
    "features": {"item_encoder": "features", "features": "vectors.npy"},
    "image": {"item_encoder": "tiny_convnext"},
    "text": {"item_encoder": "tiny_bert"},
    "fusion": {"item_encoder": ["tiny_convnext", "tiny_bert"], "fusion": "concat"},
}
SMALL = {
    "embedding_size": 8, "inner_size": 8, "n_layers": 1, "use_gpu": False, "show_progress": False,
    "topk": [5], "valid_metric": "NDCG@5", "image_size": 32, "max_text_length": 8,
    "negatives": 3, "catalogue_per_step": 100,
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The tiny world with stored vectors; datasets and item encoders are opened once."""
    folder = write_world(tmp_path_factory.mktemp("all") / "colours", users=24, items_per_colour=8)
    config = MoRecConfig("PixelNet", "colours", overrides={"data_path": str(folder.parent)})
    dataset = MultimodalDataset(config)
    vectors = np.random.default_rng(0).normal(size=(dataset.item_num - 1, 6)).astype(np.float32)
    np.save(folder / "vectors.npy", vectors)
    (folder / "vectors.tokens.txt").write_text("\n".join(dataset.item_tokens[1:]) + "\n")
    return folder.parent


def adapter_of(data, **overrides):
    config = MoRecConfig(
        "PixelNet", "colours", overrides={**SMALL, "data_path": str(data), **overrides}
    )
    config["device"] = torch.device("cpu")
    torch.manual_seed(0)
    return config, build_adapter(config, MultimodalDataset(config))


@pytest.mark.parametrize("objective", OBJECTIVES.names())
@pytest.mark.parametrize("user_encoder", USER_ENCODERS.names())
@pytest.mark.parametrize("item_encoder", ITEM_ENCODERS)
def test_step_evaluation_save_and_load(data, tmp_path, item_encoder, user_encoder, objective):
    chosen = {**ITEM_ENCODERS[item_encoder], "user_encoder": user_encoder, "objective": objective}
    if (user_encoder, objective) == ("UserID", "item_head"):
        with pytest.raises(ConfigError, match="neither reads an item vector"):
            adapter_of(data, **chosen)
        return
    config, adapter = adapter_of(data, **chosen)
    batch = next(TrainLoader(adapter.batches(), 16, seed=1).epoch(0))
    adapter.model.train()
    loss = adapter.loss(batch)
    assert torch.isfinite(loss)
    loss.backward()
    for name, parameter in adapter.model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"{name} takes no part"
    optimizer = torch.optim.SGD(adapter.model.parameters(), lr=0.1)
    optimizer.step()

    adapter.model.eval()
    cpu = torch.device("cpu")
    evaluator = Evaluator(config, adapter.dataset, cpu)
    before = evaluator.evaluate(adapter.scorer(cpu), "test")
    save_checkpoint(tmp_path / "best", model=adapter.model, extra={}, state={})
    _, other = adapter_of(data, **chosen)
    load_checkpoint(tmp_path / "best", model=other.model)
    other.model.eval()
    after = evaluator.evaluate(other.scorer(cpu), "test")
    assert (after.ranks == before.ranks).all()


@pytest.mark.parametrize("user_encoder", USER_ENCODERS.names())
@pytest.mark.parametrize("pad_vector", ["zero", "encoded"])
def test_no_item_is_encoded_twice_and_padding_at_most_once(data, user_encoder, pad_vector):
    _, adapter = adapter_of(
        data, item_encoder="tiny_convnext", user_encoder=user_encoder, objective="bpr",
        pad_vector=pad_vector,
    )  # fmt: skip
    seen = []
    encode = adapter.model.item_encoder.forward
    adapter.model.item_encoder.forward = lambda content: seen.append(content) or encode(content)
    batch = next(TrainLoader(adapter.batches(), 16, seed=1).epoch(0))
    adapter.loss(batch)
    ids = torch.cat([content["items"] for content in seen])
    real = ids[ids > 0]
    assert len(real.unique()) == len(real) == len(batch["content"]["items"])
    assert len(ids) - len(real) == (pad_vector == "encoded")
    needed = set(batch["item_seq"][batch["mask"]].tolist())
    drawn = batch["negative_index"][batch["negative_index"] > 0]
    needed |= set(batch["content"]["items"][drawn - 1].tolist())
    assert set(real.tolist()) == needed
