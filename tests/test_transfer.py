"""Loading parts of one run into another: what is taken, what is refused, and what it is worth."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import write_world

from recbole_morec.errors import CheckpointError, ConfigError
from recbole_morec.run import run
from recbole_morec.training.checkpoint import read_checkpoint
from recbole_morec.transfer.parts import PARTS, Source, load_parts, part_of

QUICK = {
    "use_gpu": False, "show_progress": False, "log_tensorboard": False, "topk": [20],
    "valid_metric": "NDCG@20", "embedding_size": 16, "item_encoder": "tiny_convnext",
    "objective": "in_batch", "learning_rate": 1e-3, "encoder_learning_rate": 3e-4,
}  # fmt: skip


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A source with many users and a target with few: other items, but the same looks, of which the
    next item's colour follows from the newest one's. The right colour has 20 of 80 items."""
    folder = tmp_path_factory.mktemp("pair")
    for name, users, seed in (("source", 300, 1), ("target", 100, 2)):
        path = folder / "data" / name
        write_world(path, users=users, items_per_colour=20, cycle=True, seed=seed)
    common = {**QUICK, "data_path": str(folder / "data"), "checkpoint_dir": str(folder / "saved")}
    faster = {"learning_rate": 3e-3, "encoder_learning_rate": 1e-3, "train_batch_size": 32}
    run("TransRec", "source", overrides={**common, **faster, "epochs": 12})
    (source,) = (folder / "saved" / "source").iterdir()
    return common, source


def best(folder: str | Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(Path(folder) / "best")[0]


def run_of(common: dict, **overrides) -> tuple[dict, Path]:
    before = set(Path(common["checkpoint_dir"]).glob("target/*"))
    results = run("TransRec", "target", overrides={**common, **overrides})
    (folder,) = set(Path(common["checkpoint_dir"]).glob("target/*")) - before
    return results, folder


@pytest.mark.parametrize("objective", ["in_batch", "full_softmax"])
def test_a_resumed_run_goes_on_from_loaded_parts(pair, monkeypatch, tmp_path, objective):
    """Frozen item encoders are run once, before training: with the loaded weights, no others."""
    from recbole_morec.training import trainer

    common, source = pair
    choice = {"epochs": 2, "objective": objective, "train_layers": "none", "encoder_dropout": 0.0}
    choice |= {"load": {"item_encoder": str(source)}, "checkpoint_dir": str(tmp_path / "whole")}
    run_of({**common, **choice})
    choice["checkpoint_dir"] = str(tmp_path / "parts")
    first = trainer.Trainer._train_epoch

    def stopped(self):
        if self.state.epoch == 1:
            raise KeyboardInterrupt
        first(self)

    monkeypatch.setattr(trainer.Trainer, "_train_epoch", stopped)
    with pytest.raises(KeyboardInterrupt):
        run("TransRec", "target", overrides={**common, **choice})
    monkeypatch.setattr(trainer.Trainer, "_train_epoch", first)
    stores = set((Path(common["data_path"]) / "target" / "prepared").glob("states-*"))
    run("TransRec", "target", overrides={**common, **choice, "resume": True})
    assert set((Path(common["data_path"]) / "target" / "prepared").glob("states-*")) == stores
    (one,), (other,) = [list((tmp_path / n).glob("target/*")) for n in ("whole", "parts")]
    ours, theirs = best(other), best(one)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_all_parts_are_the_source_before_the_first_step(pair, capsys):
    common, source = pair
    _, folder = run_of(common, epochs=0, load=str(source))
    theirs, ours = best(source), best(folder)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    printed = capsys.readouterr().out
    assert "loaded" in printed
    assert all(part in printed for part in PARTS if part != "item_table")


def test_only_the_parts_asked_for_are_loaded(pair):
    common, source = pair
    load = {"item_encoder": str(source), "positions": str(source)}
    _, folder = run_of(common, epochs=0, load=load)
    theirs, ours = best(source), best(folder)
    for name in ours:
        taken = part_of(name, {}) in load
        initial = ours[name].numel() == 1 or float(theirs[name].std()) < 1e-6  # norms may be equal
        assert initial or torch.equal(ours[name], theirs[name]) == taken, name


def test_transfer_beats_training_from_scratch_at_equal_steps(pair):
    common, source = pair
    scratch, _ = run_of(common, epochs=2)
    loaded, _ = run_of(common, epochs=2, load=str(source))
    assert loaded["training"]["epochs"] == scratch["training"]["epochs"]
    assert loaded["test"]["all"]["recall@20"] > scratch["test"]["all"]["recall@20"] + 0.3


def test_the_optimizer_is_fresh(pair):
    common, source = pair
    _, folder = run_of(common, epochs=1, load=str(source), learning_rate=1e-5)
    document = json.loads((folder / "last" / "state.json").read_text())
    assert document["optimizer"]["param_groups"][0]["lr"] == 1e-5
    steps = {float(v) for k, v in _optimizer(folder).items() if k.endswith(".step")}
    assert steps == {float(document["state"]["step"])}


def _optimizer(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "last" / "optimizer.safetensors")


def test_a_mismatched_checkpoint_is_refused_with_the_differences(pair):
    common, source = pair
    with pytest.raises(CheckpointError) as caught:
        run("TransRec", "target", overrides={**common, "n_layers": 1, "load": str(source)})
    assert "user_encoder.layers.layer.1." in str(caught.value)
    assert "which this model has not" in str(caught.value)
    with pytest.raises(CheckpointError, match=r"shape \(16, .* and \(8, "):
        run(
            "TransRec", "target",
            overrides={**common, "embedding_size": 8, "load": {"projection": str(source)}},
        )  # fmt: skip
    with pytest.raises(CheckpointError, match=r"lacks item_encoder\.backbone"):
        run(
            "TransRec", "target",
            overrides={**common, "item_encoder": "tiny_vit", "load": {"item_encoder": str(source)}},
        )  # fmt: skip


def test_nothing_is_copied_where_something_does_not_fit():
    model = torch.nn.ModuleDict({"user_encoder": torch.nn.Linear(3, 2)})
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tensors = {"user_encoder.weight": torch.ones(2, 3), "user_encoder.bias": torch.ones(3)}
    with pytest.raises(CheckpointError, match=r"bias has shape \(3,\)"):
        load_parts(model, {"user_encoder": Source("x", tensors)}, "", frozenset())
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)


def test_rows_by_id_move_to_the_same_items_only(pair):
    common, _ = pair
    ids = {**common, "item_encoder": "id", "epochs": 1}
    run("TransRec", "source", overrides=ids)
    (folder,) = (
        f for f in Path(common["checkpoint_dir"]).glob("source/*")
        if "item_encoder: id\n" in (f / "config.yaml").read_text()
    )  # fmt: skip
    again = run("TransRec", "source", overrides={**ids, "epochs": 0, "load": str(folder)})
    assert again["training"]["epochs"] == 0
    load = {"item_encoder": str(folder)}
    with pytest.raises(CheckpointError, match="belongs to the items or users"):
        run("TransRec", "target", overrides={**ids, "load": load})


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("VBPR", {}),
        ("ACF", {"objective": "bpr"}),
        ("CuratorNet", {}),
        ("DIN", {"din_layers": [8]}),
        ("MF", {"tower_layers": [16], "item_tower": True}),
        ("PixelNet", {"objective": "item_head"}),
        ("PixelNet", {"item_encoder": ["id", "tiny_convnext"], "fusion": "gated"}),
    ],
    ids=str,
)
def test_one_path_loads_the_whole_of_every_model(pair, model, settings):
    """Nothing that both hold stays at its start, tables beside the item encoder's included."""
    common = {**pair[0], "train_batch_size": 512, **settings}
    before = set(Path(common["checkpoint_dir"]).glob("source/*"))
    run(model, "source", overrides={**common, "epochs": 1})
    (source,) = set(Path(common["checkpoint_dir"]).glob("source/*")) - before
    before |= {source}
    run(model, "source", overrides={**common, "epochs": 0, "load": str(source), "seed": 7})
    (loaded,) = set(Path(common["checkpoint_dir"]).glob("source/*")) - before
    theirs, ours = best(source), best(loaded)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def test_an_encoder_moves_to_a_model_with_a_table_beside_it(pair):
    common, source = pair
    overrides = {**common, "epochs": 0, "load": {"item_encoder": str(source)}}
    before = set(Path(common["checkpoint_dir"]).glob("target/*"))
    run("VBPR", "target", overrides=overrides)
    (folder,) = set(Path(common["checkpoint_dir"]).glob("target/*")) - before
    theirs, ours = best(source), best(folder)
    taken = [name for name in theirs if name.startswith("item_encoder.backbone.")]
    assert taken
    assert all(torch.equal(ours[name], theirs[name]) for name in taken)


def test_a_part_that_is_nowhere_is_an_error(pair):
    common, source = pair
    load = {"item_encoder": str(source), "item_table": str(source)}
    with pytest.raises(CheckpointError, match=r"item_table: neither .* nor this model has any"):
        run("TransRec", "target", overrides={**common, "load": load})


def test_nothing_to_load_is_an_error():
    model = torch.nn.ModuleDict({"user_encoder": torch.nn.Identity()})
    sources = {part: Source("x", {}) for part in PARTS}
    with pytest.raises(CheckpointError, match="x: it holds nothing that this model could take"):
        load_parts(model, sources, "", frozenset(), by_name=False)


def test_a_part_declared_wrongly_is_an_error():
    model = torch.nn.ModuleDict({"user_encoder": torch.nn.Linear(3, 2)})
    model.transfer_parts = {"gate": "gates"}
    source = Source("x", model.state_dict())
    with pytest.raises(CheckpointError, match="there is no part gates"):
        load_parts(model, {"user_encoder": source}, "", frozenset())


def test_a_wrong_name_of_a_part_is_a_config_error_with_a_suggestion(pair):
    common, source = pair
    with pytest.raises(ConfigError, match=r"no part 'item_encoders'\. Did you mean \"item_encoder"):
        run("TransRec", "target", overrides={**common, "load": {"item_encoders": str(source)}})


def test_no_such_source_is_an_error(pair):
    common, _ = pair
    with pytest.raises(CheckpointError, match="does not exist; give a run folder"):
        run("TransRec", "target", overrides={**common, "load": "nowhere"})
