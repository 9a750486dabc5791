"""Every objective: the losses and gradients of two processes add up to those of one."""

import pytest
import torch
import torch.distributed as dist
from conftest import write_world

from recbole_morec import parallel
from recbole_morec.config import MoRecConfig
from recbole_morec.data.dataset import MultimodalDataset
from recbole_morec.data.loader import TrainLoader
from recbole_morec.models.adapter import build_adapter
from recbole_morec.objectives import OBJECTIVES

POPULAR = {"negative_distribution": "popularity", "negatives_avoid": "history"}
CASES = {
    **{name: {"objective": name} for name in OBJECTIVES.names()},
    "in_batch alone": {"objective": "in_batch", "gather_negatives": False},
    "popular": {"objective": "sampled_softmax", **POPULAR},
    "popular, each its own": {"objective": "sampled_softmax", "negatives_shared": False, **POPULAR},
    "not gathered": {"objective": "sampled_softmax", "gather_negatives": False},
    "masked": {"objective": "sampled_softmax", "user_encoder": "BERT4Rec", "temperature": 0.5},
    "images": {"objective": "sampled_softmax", "item_encoder": "tiny_convnext"},
    "every slot": {
        "objective": "sampled_softmax", "item_encoder": "tiny_convnext", "encode": "every_slot",
    },
    "frozen": {"objective": "full_softmax", "item_encoder": "tiny_bert", "train_layers": "none"},
    "small": {
        "objective": "full_softmax", "item_encoder": "tiny_convnext", "catalogue_per_step": 40,
    },
}  # fmt: skip


def steps(data, chosen):
    """Loss and gradients of the first and last step, summed over processes."""
    values = {
        "data_path": str(data), "use_gpu": False, "show_progress": False, "item_encoder": "id",
        "embedding_size": 8, "n_layers": 1, "negatives": 7, "hidden_dropout_prob": 0,
        "attn_dropout_prob": 0, "encoder_dropout": 0, **chosen,
    }  # fmt: skip
    config = MoRecConfig("PixelNet", "colours", overrides=values)
    config["device"] = torch.device("cpu")
    torch.manual_seed(0)
    adapter = build_adapter(config, MultimodalDataset(config))
    adapter.model.train()
    # 61 rows: the last batch has one, and leaves a process empty.
    loader = TrainLoader(
        adapter.batches(), 15, seed=1, rank=parallel.rank(), world_size=parallel.world_size()
    )
    results = {}
    for step, batch in enumerate(loader.epoch(0)):
        if step not in (0, len(loader) - 1):
            continue
        adapter.model.zero_grad()
        loss = adapter.loss(batch)
        loss.backward()
        found = {"loss": loss.detach()}
        for name, parameter in adapter.model.named_parameters():
            if parameter.requires_grad:
                found[name] = parameter.grad.clone()
        for name, value in found.items():
            if parallel.world_size() > 1:
                dist.all_reduce(value)
            results[f"step {step}: {name}"] = value
    return results


def work(rank, data, folder):
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    try:
        results = {name: steps(data, chosen) for name, chosen in CASES.items()}
        if rank == 0:
            torch.save(results, folder / "two.pt")
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("two") / "colours", users=61).parent


@pytest.fixture(scope="module")
def two(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    torch.multiprocessing.spawn(work, (data, folder), nprocs=2)
    return torch.load(folder / "two.pt")


@pytest.mark.parametrize("name", CASES)
def test_two_processes_equal_one(data, two, name):
    one = steps(data, CASES[name])
    alone = name == "in_batch alone"  # fewer negatives, so another loss
    assert two[name].keys() == one.keys()
    same = {
        key: (two[name][key] - value).norm() <= 1e-5 * value.norm() + 1e-6
        for key, value in one.items()
    }
    assert all(same.values()) != alone, [key for key, fits in same.items() if not fits]
