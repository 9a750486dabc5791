"""The catalogue is encoded once per state of the weights, and in float32."""

import pytest
import torch
import torch.distributed as dist
from torch import nn

from recbole_morec.config import MoRecConfig
from recbole_morec.data.dataset import MultimodalDataset
from recbole_morec.evaluation.catalogue import CatalogueCache
from recbole_morec.evaluation.evaluator import Evaluator
from recbole_morec.models import adapter as adapter_module
from recbole_morec.models import stock_content
from recbole_morec.models.adapter import build_adapter
from recbole_morec.run import run

CPU = torch.device("cpu")


@pytest.fixture
def encodings(monkeypatch):
    """One entry, the matrix, for every time that a catalogue is encoded."""
    made = []
    real = adapter_module.encode_catalogue

    def encode_catalogue(*args, **options):
        made.append(real(*args, **options))
        return made[-1]

    monkeypatch.setattr(adapter_module, "encode_catalogue", encode_catalogue)
    monkeypatch.setattr(stock_content, "encode_catalogue", encode_catalogue)
    return made


def opened(settings, model="PixelNet", **changes):
    config = MoRecConfig(model, "colours", overrides={**settings, **changes})
    config["device"] = CPU
    dataset = MultimodalDataset(config)
    adapter = build_adapter(config, dataset)
    adapter.model.eval()
    return adapter, Evaluator(config, dataset, CPU)


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ("PixelNet", {}),
        ("PixelNet", {"pad_vector": "encoded", "item_encoder": "image"}),
        ("VBPR", {}),
        ("SASRec", {"item_encoder": "image", "hidden_size": 16}),
    ],
)
def test_a_run_encodes_once_per_epoch_and_at_most_once_more(settings, encodings, model, changes):
    results = run(model, "colours", overrides={**settings, "epochs": 2, **changes})
    again = results["training"]["best_epoch"] != 2  # validation and test share the best state
    assert len(encodings) == 2 + again


def test_every_changed_weight_encodes_again(settings, encodings):
    adapter, evaluator = opened(settings, item_encoder="image", train_layers="all")
    first = evaluator.evaluate(adapter.scorer(CPU), "valid")
    evaluator.evaluate(adapter.scorer(CPU), "test")
    assert len(encodings) == 1
    encoder = adapter.model.item_encoder
    tensors = [*encoder.parameters(), *encoder.buffers()]
    for count, tensor in enumerate(tensors, start=2):
        kept = tensor.detach().clone()
        with torch.no_grad():
            # Past the version counter of autograd, as some optimisers write.
            tensor.data.add_(torch.ones_like(tensor))
        evaluator.evaluate(adapter.scorer(CPU), "valid")
        assert len(encodings) == count
        tensor.data.copy_(kept)
    assert (evaluator.evaluate(adapter.scorer(CPU), "valid").ranks == first.ranks).all()
    with torch.no_grad():  # a user encoder's weights are not read
        next(adapter.model.user_encoder.parameters()).add_(1.0)
    before = len(encodings)
    evaluator.evaluate(adapter.scorer(CPU), "valid")
    assert len(encodings) == before


def test_a_model_with_its_own_encoding_is_watched_as_a_whole(settings, encodings):
    adapter, evaluator = opened(settings, "VBPR")
    evaluator.evaluate(adapter.scorer(CPU), "valid")
    for count, parameter in enumerate(adapter.model.parameters(), start=2):
        with torch.no_grad():
            parameter.mul_(1.5).add_(0.25)
        evaluator.evaluate(adapter.scorer(CPU), "valid")
        assert len(encodings) == count


def test_training_mode_encodes_again():
    cache, made = CatalogueCache(), []
    module = nn.Sequential(nn.Linear(2, 2), nn.Dropout())

    def encode():
        made.append(torch.zeros(3, 2))
        return made[-1]

    assert cache.get([module], encode) is cache.get([module], encode)
    module[1].eval()
    cache.get([module], encode)
    assert len(made) == 2


def test_processes_encode_together_or_not_at_all(tmp_path):
    torch.multiprocessing.spawn(_differ, (str(tmp_path / "store"),), nprocs=2)


def _differ(rank, store):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    cache, module, made = CatalogueCache(), nn.Linear(2, 2), []

    def encode():
        total = torch.ones(1)
        dist.all_reduce(total)  # hangs unless both are here
        made.append(total)
        return total

    cache.get([module], encode)
    cache.get([module], encode)
    assert len(made) == 1
    if rank == 1:  # one process alone has other weights
        nn.init.zeros_(module.bias)
    assert cache.get([module], encode).item() == 2
    assert len(made) == 2
    dist.destroy_process_group()


def test_evaluation_within_autocast_is_float32(settings, encodings, monkeypatch):
    adapter, evaluator = opened(settings, item_encoder="image")
    plain = evaluator.evaluate(adapter.scorer(CPU), "test")
    other, _ = opened(settings, item_encoder="image")
    other.model.load_state_dict(adapter.model.state_dict())
    seen = []
    score = type(other.model).score

    def spy(self, users, items):
        scores = score(self, users, items)
        seen.append((users.dtype, items.dtype, scores.dtype))
        return scores

    monkeypatch.setattr(type(other.model), "score", spy)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ranked = evaluator.evaluate(other.scorer(CPU), "test")
    assert set(seen) == {(torch.float32,) * 3}
    assert torch.equal(encodings[0], encodings[1])
    assert (ranked.ranks == plain.ranks).all()


def test_a_run_in_bf16_scores_in_float32(settings, encodings, monkeypatch):
    from recbole_morec.models.pixelnet import PixelNet

    seen, score = set(), PixelNet.score

    def spy(self, users, items):
        scores = score(self, users, items)
        seen.add((users.dtype, items.dtype, scores.dtype, torch.is_autocast_enabled("cpu")))
        return scores

    monkeypatch.setattr(PixelNet, "score", spy)
    changes = {"item_encoder": "image", "epochs": 1, "mixed_precision": "bf16"}
    run("PixelNet", "colours", overrides={**settings, **changes})
    assert seen == {(torch.float32, torch.float32, torch.float32, False)}
    assert len(encodings) == 1
