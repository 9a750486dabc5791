"""Losses over the whole catalogue: what is encoded, how often, and what is refused."""

import pytest
import torch
from torch.nn import functional as F

from recbole_morec.config import MoRecConfig
from recbole_morec.data.dataset import MultimodalDataset
from recbole_morec.data.loader import TrainLoader
from recbole_morec.errors import ConfigError
from recbole_morec.models.adapter import build_adapter

QUIET = {"use_gpu": False, "show_progress": False, "topk": [5], "valid_metric": "NDCG@5"}
NO_DROPOUT = {"hidden_dropout_prob": 0, "attn_dropout_prob": 0, "encoder_dropout": 0}
AVERAGED = {
    "item_encoder": "tiny_bert", "text_fields": ["title", "title"], "text_fields_as": "averaged",
}  # fmt: skip
FUSED = {"item_encoder": ["tiny_convnext", "tiny_bert"], "fusion": "concat"}


def adapter_of(world, **overrides):
    values = {"objective": "full_softmax", "embedding_size": 8, "n_layers": 1, "negatives": 3}
    values |= {**QUIET, "data_path": str(world.parent), **overrides}
    config = MoRecConfig("PixelNet", "colours", overrides=values)
    config["device"] = torch.device("cpu")
    torch.manual_seed(0)
    return build_adapter(config, MultimodalDataset(config))


def two_batches(adapter):
    batches = TrainLoader(adapter.batches(), 16, seed=1).epoch(0)
    return [next(batches), next(batches)]


def plain_loss(adapter, batch):
    """Every candidate encoded from its content, all logits at once."""
    model, dataset = adapter.model, adapter.dataset
    items = dataset.candidates.nonzero()[0]
    row = {item: place for place, item in enumerate(items)}
    encoded = model.encode_items(adapter.content.fetch(items))
    vectors = torch.cat([encoded.new_zeros(1, 8), encoded])
    index = torch.tensor(
        [[row[item] + 1 if item else 0 for item in each] for each in batch["item_seq"].tolist()]
    )
    losses = []
    states = model.user_encoder(history_of(batch, vectors[index]))
    for b, t in batch["target"].nonzero().tolist():
        label = torch.tensor([row[batch["item_seq"][b, t].item()]])
        losses.append(F.cross_entropy(states[b, t - 1][None] @ encoded.T, label))
    return torch.stack(losses).mean()


def history_of(batch, vectors):
    from recbole_morec.user_encoders import History

    items = batch["item_seq"][:, :-1]
    return History(vectors[:, :-1], items, items > 0, batch["user"], "train")


@pytest.mark.parametrize(
    "chosen",
    [
        {"item_encoder": "id"},
        {"item_encoder": "tiny_convnext", "train_layers": "none"},
        {"item_encoder": "tiny_bert", "train_layers": "none"},
        {"item_encoder": "tiny_bert", "train_layers": "none", "pooling": "mean"},
        {**AVERAGED, "train_layers": "none"},
        {"item_encoder": "tiny_convnext", "catalogue_per_step": 40},
        {**FUSED, "train_layers": "none"},
        {**FUSED, "train_layers": {"image": "none", "text": "all"}, "catalogue_per_step": 40},
    ],
    ids=str,
)
def test_loss_and_gradients_are_those_of_encoding_everything(world, chosen):
    adapter = adapter_of(world, **NO_DROPOUT, **chosen)
    adapter.model.train()
    for batch in two_batches(adapter):
        assert list(batch["content"]) == ["items"]  # no batch carries the catalogue's content
        batch["global_rows"], batch["global_terms"] = 16, int(batch["target"].sum())
        runs = []
        for loss in (adapter.loss, lambda batch: plain_loss(adapter, batch)):
            adapter.model.zero_grad()
            value = loss(batch)
            value.backward()
            gradients = {
                name: each.grad.clone()
                for name, each in adapter.model.named_parameters()
                if each.grad is not None
            }
            runs.append((value.detach(), gradients))
        assert runs[0][1].keys() == runs[1][1].keys()
        torch.testing.assert_close(runs[0], runs[1], rtol=1e-3, atol=2e-5)


def test_a_frozen_backbone_runs_over_the_catalogue_once(world):
    adapter = adapter_of(world, item_encoder="tiny_convnext", train_layers="none")
    seen = []
    adapter.model.item_encoder.backbone.register_forward_hook(lambda *call: seen.append(call))
    forward_features = adapter.model.item_encoder.backbone.forward_features
    adapter.model.item_encoder.backbone.forward_features = lambda x: (
        seen.append(len(x)) or forward_features(x)
    )
    first, second = two_batches(adapter)
    adapter.loss(first)
    assert seen  # whichever way the backbone is called
    seen.clear()
    torch.manual_seed(5)
    adapter.loss(second)
    assert not seen


def test_encoding_the_catalogue_takes_no_random_number_from_training(world):
    chosen = {"item_encoder": "tiny_convnext", "train_layers": "none", "hidden_dropout_prob": 0.5}
    adapter = adapter_of(world, **chosen)
    adapter.model.train()
    batch, _ = two_batches(adapter)
    losses = []
    for _ in range(2):  # the first call encodes the catalogue
        torch.manual_seed(5)
        losses.append(adapter.loss(batch).item())
    assert losses[0] == losses[1]


def test_what_full_softmax_refuses_before_data_is_read():
    def problems(**overrides):
        values = {"objective": "full_softmax", **QUIET, **overrides}
        with pytest.raises(ConfigError) as caught:
            MoRecConfig("PixelNet", "nowhere", overrides=values)
        (problem,) = caught.value.problems
        return problem

    assert "item_encoder=tiny_convnext trains" in problems()
    assert "trains" in problems(**FUSED, train_layers={"image": "none", "text": "last_1"})
    assert "encode=distinct" in problems(item_encoder="id", encode="every_slot")
    for free in ({"item_encoder": "id"}, {"train_layers": "none"}, {"catalogue_per_step": 9}):
        MoRecConfig("PixelNet", "nowhere", overrides={"objective": "full_softmax", **free})


@pytest.mark.parametrize(
    "chosen",
    [
        {"item_encoder": "tiny_convnext", "catalogue_per_step": 39},
        # Tokens are projected before they are pooled, so that they cannot be kept.
        {"item_encoder": "tiny_convnext", "train_layers": "none", "pooling": "project_mean"},
        {**FUSED, "train_layers": "none", "fusion": "co_attention"},
    ],
    ids=str,
)
def test_a_catalogue_larger_than_allowed_is_an_error(world, chosen):
    with pytest.raises(ConfigError, match="all 40 items in each step"):
        adapter_of(world, **chosen)


def test_an_item_head_belongs_to_its_catalogue(world):
    adapter = adapter_of(world, item_encoder="tiny_convnext", objective="item_head")
    assert adapter.bound_to_ids
    assert adapter.model.rows_by_id() == {"objective.head.weight", "objective.head.bias"}
    assert not adapter_of(world, item_encoder="tiny_convnext", objective="in_batch").bound_to_ids
