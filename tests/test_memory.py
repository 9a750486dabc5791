"""The plan of a run's memory, and what fit_memory makes of it."""

import json
import logging
import os
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from conftest import write_world
from safetensors.torch import load_file

from recbole_morec.config import MoRecConfig
from recbole_morec.data import content
from recbole_morec.data.dataset import MultimodalDataset
from recbole_morec.errors import ConfigError
from recbole_morec.models.adapter import build_adapter
from recbole_morec.run import run
from recbole_morec.sizes import read_size, write_size
from recbole_morec.training import memory
from recbole_morec.training.memory import Held, choose, plan_of
from recbole_morec.training.memory_probe import ItemSide

HELD = Held(before=100, gradients=50, states=100)


@dataclass
class Steps:
    """64 rows; a row has two items of its own and all rows share ten."""

    rows: int = 64
    item_side: ItemSide = field(default_factory=lambda: ItemSide(100, 0, 0, 1, 1))

    def items(self, rows):
        return 2 * rows + 10

    def slots(self, rows):
        return 4 * rows

    def users(self, rows):
        return 10 * rows


@pytest.mark.parametrize(
    ("size", "count"),
    [("8GB", 8e9), ("500 MB", 5e8), ("1.5GiB", 1.5 * 2**30), (8, 8e9), (0.5, 5e8), ("2", 2e9)],
)
def test_sizes_are_read(size, count):
    assert read_size(size) == count


@pytest.mark.parametrize("size", ["", "GB", "8 apples", "-1GB", 0, "0MB"])
def test_what_is_no_size_is_refused(size):
    with pytest.raises(ValueError, match="8GB"):
        read_size(size)


def test_sizes_are_written():
    assert [write_size(s) for s in (1.25e9, 3.4e8, 12_500, 7)] == [
        "1.25 GB", "340 MB", "12.5 kB", "7 B",
    ]  # fmt: skip


def test_a_step_that_fits_is_left_as_it_is():
    plan = choose(Steps(), HELD, 1e6, chunks=True, most_passes=64)
    assert (plan.chunk, plan.passes) == (None, 1)
    assert plan.total == 100 + 50 + 100 + 138 * (1 + 100) + 640


def test_the_cheapest_way_that_fits_is_chosen():
    # Two passes encode the ten shared items twice: 148 items, against a third more of 138.
    plan = choose(Steps(), HELD, 9000, chunks=True, most_passes=64)
    assert (plan.chunk, plan.passes) == (None, 2)
    assert plan.total <= 9000
    plan = choose(Steps(), HELD, 9000, chunks=True, most_passes=1)
    assert (plan.chunk, plan.passes) == (64, 1)  # 128 would not fit
    assert plan_of(Steps(), HELD, 1, 128).total > 9000


def test_small_chunks_are_the_last_resort():
    plan = choose(Steps(), HELD, 2100, chunks=True, most_passes=1)
    assert plan.chunk == 4
    least = choose(Steps(), HELD, 10, chunks=True, most_passes=1)
    assert (least.chunk, least.total > 10) == (1, True)


def quick(settings, **changes):
    return {**settings, "item_encoder": "tiny_vit", "epochs": 1, **changes}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"micro_batch": 8}, r"objective=in_batch takes its negatives from the whole batch.*"
         r"encode_chunk"),
        ({"micro_batch": 8, "objective": "bpr", "accumulation_steps": 2}, "only one of the two"),
        ({"micro_batch": 8, "objective": "bpr", "tower_batch_norm": True}, "tower_batch_norm"),
        ({"fit_memory": "much"}, "fit_memory='much': give a size such as 8GB"),
        ({"fit_memory": "8GB", "encode_chunk": 8}, "chooses encode_chunk; give only one"),
    ],
)  # fmt: skip
def test_what_would_change_the_loss_or_means_nothing_is_refused(settings, changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        MoRecConfig("PixelNet", "colours", overrides=quick(settings, **changes))


def test_models_with_negatives_of_their_own_batch_are_refused_micro_batches(settings):
    for model in ("ODMT", "DIN"):
        changes = quick(settings, micro_batch=8, item_encoder="image+text", din_penalty=0.1)
        with pytest.raises(ConfigError, match=r"micro_batch=8: (model=ODMT|din_penalty)"):
            MoRecConfig(model, "colours", overrides=changes)


@pytest.mark.parametrize("objective", ["bpr", "bce", "gbce", "sampled_softmax", "full_softmax"])
def test_micro_batches_have_the_gradient_of_the_batch(settings, tmp_path, objective):
    same = {
        "objective": objective, "hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0,
        "learner": "sgd", "learning_rate": 1.0, "encoder_learning_rate": 1.0, "weight_decay": 0,
        "encoder_weight_decay": 0, "negatives": 5, "train_batch_size": 64,
        "item_encoder": "id" if objective == "full_softmax" else "tiny_convnext",
    }  # fmt: skip
    found = []
    for name, size in (("whole", None), ("parts", 17)):
        folder = {"checkpoint_dir": str(tmp_path / name), "micro_batch": size}
        run("PixelNet", "colours", overrides=quick(settings, **same, **folder))
        (file,) = (tmp_path / name).rglob("last/model.safetensors")
        found.append(load_file(file))
    for name, tensor in found[0].items():
        assert (found[1][name] - tensor).norm() <= 1e-5 * tensor.norm() + 1e-6, name


def test_the_log_says_what_is_planned_and_chosen(settings, caplog):
    caplog.set_level(logging.INFO, "recbole_morec")
    run("PixelNet", "colours", overrides=quick(settings, encode_chunk=8))
    assert "encoding 8 items at a time, recomputed on the way back" in caplog.text
    assert "memory of a step, estimated" in caplog.text
    (run_name,) = {line for line in caplog.text.splitlines() if "run folder" in line}
    caplog.clear()
    run("PixelNet", "colours", overrides=quick(settings))
    assert "at a time" not in caplog.text
    assert run_name.rpartition("/")[2] in caplog.text  # chunks change no number


def test_what_does_not_fit_is_an_error_with_its_parts(settings):
    with pytest.raises(ConfigError, match=r"takes at least .* before training.*last_2"):
        run("PixelNet", "colours", overrides=quick(settings, fit_memory="1MB"))


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ("PixelNet", {}),
        ("PixelNet", {"item_encoder": "resnet10t", "batch_norm": "train", "pretrained": False}),
        ("PixelNet", {"encode": "every_slot"}),
        ("PixelNet", {"objective": "full_softmax", "train_layers": "none"}),
        ("PixelNet", {"mixed_precision": "bf16"}),
        ("PixelNet", {"item_encoder": "id"}),
        ("ODMT", {"item_encoder": "image+text"}),
        ("LightGCN", {"item_encoder": "id"}),
        ("GRU4Rec", {"loss_type": "BPR"}),
        ("HGN", {"item_encoder": "text"}),
        ("MF", {"tower_layers": [16], "tower_batch_norm": True}),
    ],
)
def test_planning_changes_nothing(settings, monkeypatch, tmp_path, model, changes):
    values = quick(settings, **{"train_batch_size": 32, "objective": "bpr", **changes})
    found = []
    for name in ("planned", "not"):
        if name == "not":
            monkeypatch.setattr("recbole_morec.run.plan_memory", lambda *given: None)
        if model in ("GRU4Rec", "HGN"):
            values = {k: v for k, v in values.items() if k not in ("objective",)}
        run(model, "colours", overrides={**values, "checkpoint_dir": str(tmp_path / name)})
        (file,) = (tmp_path / name).rglob("last/model.safetensors")
        found.append(load_file(file))
    for name, tensor in found[0].items():
        assert (found[1][name] == tensor).all(), name


# --- decoded images -----------------------------------------------------------------------------


class Decoded:
    """A CPU of which decoded images take 20 MB, and all else that a process holds 1 MB."""

    @staticmethod
    def held_by(adapter, accelerator, config, really=memory.held_by):
        held = really(adapter, accelerator, config)
        return replace(held, before=1e6 + (20e6 if held.images else 0))


IMAGES = 41 * 3 * 32 * 32  # bytes of all, decoded


@pytest.mark.parametrize(
    ("changes", "device", "cached"),
    [
        ({}, "cpu", IMAGES),
        ({"fit_memory": IMAGES * 4 / 1e9}, "cpu", IMAGES),
        ({"fit_memory": (IMAGES - 1) * 4 / 1e9}, "cpu", 0),
        ({"fit_memory": (IMAGES - 1) * 4 / 1e9}, "cuda", IMAGES),  # counts the device's memory
        ({"fit_memory": (IMAGES - 1) * 4 / 1e9, "image_cache_gb": 1}, "cpu", IMAGES),
        ({"image_cache_gb": 0}, "cpu", 0),
    ],
)
def test_decoded_images_get_a_share_of_fit_memory(settings, changes, device, cached):
    values = quick(settings, **changes)
    config = MoRecConfig("PixelNet", "colours", overrides=values)
    config["device"] = torch.device(device)
    adapter = build_adapter(config, MultimodalDataset(config))
    adapter.content.prepare()
    assert adapter.content.cached_bytes == cached
    assert adapter.content.uncached_bytes == IMAGES - cached


def test_the_plan_says_what_images_take(settings, caplog, monkeypatch):
    caplog.set_level(logging.INFO, "recbole_morec")
    free = run("PixelNet", "colours", overrides=quick(settings))
    assert "before training (decoded images 126 kB), gradients" in caplog.text
    caplog.clear()
    monkeypatch.setattr(content, "_CACHE_SHARE", 1e-6)
    fitted = run("PixelNet", "colours", overrides=quick(settings, fit_memory="8GB"))
    assert "images are decoded in each step: all of them take 126 kB" in caplog.text
    assert "(decoded images" not in caplog.text
    assert fitted["test"] == free["test"]


def test_decoded_images_are_given_up_where_nothing_fits_beside_them(settings, caplog, monkeypatch):
    caplog.set_level(logging.INFO, "recbole_morec")
    free = run("PixelNet", "colours", overrides=quick(settings))
    monkeypatch.setattr(memory, "held_by", Decoded.held_by)
    fitted = run("PixelNet", "colours", overrides=quick(settings, fit_memory="18MB"))
    assert "with all of them in memory, 126 kB, training takes at least" in caplog.text
    assert caplog.text.count("decoded into") == 2  # once in each run
    for group, metrics in free["test"].items():
        assert fitted["test"][group] == pytest.approx(metrics), group
    caplog.clear()
    run("PixelNet", "colours", overrides=quick(settings, fit_memory="40MB"))
    assert "images are decoded in each step" not in caplog.text


def test_images_that_the_user_wants_in_memory_are_named_where_nothing_fits(settings, monkeypatch):
    monkeypatch.setattr(memory, "held_by", Decoded.held_by)
    changes = {"fit_memory": "18MB", "image_cache_gb": 1}
    with pytest.raises(
        ConfigError,
        match=r"21 MB before training \(decoded images 126 kB, image_cache_gb=1.0\).*"
        r"another run: image_cache_gb=0",
    ):
        run("PixelNet", "colours", overrides=quick(settings, **changes))


# --- against reality ------------------------------------------------------------------------------

MEASURE = """
import json, sys
from pathlib import Path
import torch
from accelerate import Accelerator
from recbole_morec.config import MoRecConfig
from recbole_morec.data.dataset import MultimodalDataset
from recbole_morec.data.loader import TrainLoader
from recbole_morec.models.adapter import build_adapter
from recbole_morec.training.memory import plan_memory
from recbole_morec.training.optim import build_optimizer, parameter_groups

config = MoRecConfig("PixelNet", "colours", overrides=json.loads(sys.argv[1]))
config["device"] = torch.device("cpu")
torch.manual_seed(0)
adapter = build_adapter(config, MultimodalDataset(config))
accelerator = Accelerator(cpu=True, mixed_precision=config["mixed_precision"])
plan = plan_memory(adapter, accelerator, config)
optimizer = build_optimizer(parameter_groups(adapter.model, config), config)
adapter.model.train()
batches = TrainLoader(adapter.batches(), config["train_batch_size"], seed=1).epoch(0)
with accelerator.autocast():
    loss = adapter.loss(next(batches))
loss.backward()
optimizer.step()
# Not ru_maxrss, which starts from the peak of the process that started this one.
(peak,) = [line for line in Path("/proc/self/status").open() if line.startswith("VmHWM")]
peak = int(peak.split()[1]) * 1024
print(json.dumps({
    "loss": loss.item(), "peak": peak, "planned": plan.total, "before": plan.held.before,
    "chunk": plan.chunk, "norm": sum(p.grad.double().norm() ** 2 for p in
    adapter.model.parameters() if p.grad is not None).sqrt().item(),
}))
"""


def measure(world, **changes):
    values = {
        "data_path": str(world.parent), "show_progress": False, "use_gpu": False,
        "item_encoder": "vit_tiny_patch16_224", "pretrained": False, "image_size": 96,
        "embedding_size": 32, "train_batch_size": 40, "hidden_dropout_prob": 0.0,
        "attn_dropout_prob": 0.0, **changes,
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, json.dumps(values)],
        # What is freed goes back at once: what was asked for is measured, not what malloc hoards.
        env={**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_the_plan_is_what_a_step_takes(tmp_path):
    world = write_world(tmp_path / "colours", users=40, items_per_colour=20)
    free = measure(world)
    used, planned = free["peak"] - free["before"], free["planned"] - free["before"]
    assert free["chunk"] is None
    assert 0.75 < planned / used < 1.33
    limit = free["before"] + 0.4 * used
    fitted = measure(world, fit_memory=f"{limit / 1e6:.0f}MB")
    assert fitted["chunk"]
    assert fitted["peak"] < limit
    used, planned = fitted["peak"] - fitted["before"], fitted["planned"] - fitted["before"]
    assert 0.75 < planned / used < 1.5
    assert fitted["loss"] == pytest.approx(free["loss"], rel=1e-5)
    assert fitted["norm"] == pytest.approx(free["norm"], rel=1e-4)
