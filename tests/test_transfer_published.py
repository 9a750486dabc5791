"""Checkpoints of published code: read without running anything, translated, loaded by part."""

from __future__ import annotations

import pickle
import sys
import types
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from recbole_morec.errors import CheckpointError
from recbole_morec.run import run
from recbole_morec.training.checkpoint import read_checkpoint
from recbole_morec.transfer.published import our_state, published_names, system_of
from recbole_morec.transfer.sources import read_published

D, L = 16, 5


def block(k: int) -> dict[str, torch.Size]:
    """Names and sizes of a transformer block of PixelRec's SASRec."""
    start = f"trm_encoder.layer.{k}."
    square, wide = (D, D), (4 * D, D)
    names = {f"{start}multi_head_attention.{n}.weight": square for n in ("query", "key", "value")}
    names |= {f"{start}multi_head_attention.{n}.bias": (D,) for n in ("query", "key", "value")}
    names |= {f"{start}multi_head_attention.dense.{n}": s for n, s in _linear(square)}
    names |= {f"{start}multi_head_attention.LayerNorm.{n}": (D,) for n in ("weight", "bias")}
    names |= {f"{start}feed_forward.dense_1.{n}": s for n, s in _linear(wide)}
    names |= {f"{start}feed_forward.dense_2.{n}": s for n, s in _linear((D, 4 * D))}
    return names | {f"{start}feed_forward.LayerNorm.{n}": (D,) for n in ("weight", "bias")}


def _linear(shape):
    return (("weight", shape), ("bias", shape[:1]))


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    """PixelRec's SASRec on the 40 items of the colour world."""
    names = {"item_embedding.weight": (41, D), "position_embedding.weight": (L, D)}
    names |= {"LayerNorm.weight": (D,), "LayerNorm.bias": (D,), **block(0), **block(1)}
    torch.manual_seed(0)
    return OrderedDict((name, torch.randn(shape)) for name, shape in names.items())


@pytest.fixture
def model(settings):
    return {**settings, "epochs": 0, "user_encoder": "SASRec", "n_layers": 2, "n_heads": 2}


@pytest.mark.parametrize("wrap", ["state_dict", "model_state_dict", None])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_every_tensor_of_a_checkpoint_is_loaded(model, state, tmp_path, wrap, prefix, caplog):
    saved = {prefix + name: value for name, value in state.items()}
    torch.save({wrap: saved, "epoch": 3} if wrap else saved, tmp_path / "published.pth")
    run("PixelNet", "colours", overrides={**model, "load": str(tmp_path / "published.pth")})
    folder = next(Path(model["checkpoint_dir"]).glob("colours/*"))
    ours, _ = read_checkpoint(folder / "best")
    for theirs, name in published_names(state).items():
        assert torch.equal(ours[name], state[theirs]), name
    assert len(ours) == len(state)
    assert "in the order of" in caplog.text  # an ID table has no names of its rows


def test_a_pickled_config_beside_the_state_is_passed_over(state, tmp_path):
    """PixelRec pickles its Config object into the file; it is never imported or built."""
    module = types.ModuleType("REC.config.configurator")
    module.Config = type("Config", (), {"__module__": module.__name__})
    made = {name: types.ModuleType(name) for name in ("REC", "REC.config")} | {
        module.__name__: module
    }
    sys.modules.update(made)
    try:
        config = module.Config()
        config.values = {"seed": 2020, "device": "cuda"}
        torch.save({"config": config, "state_dict": state}, tmp_path / "best.pth")
    finally:
        for name in made:
            del sys.modules[name]
    assert read_published(tmp_path / "best.pth").keys() == state.keys()


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path(self.path),))


def test_code_in_a_checkpoint_is_not_run(state, tmp_path):
    bomb = Bomb()
    bomb.path = str(tmp_path / "ran")
    torch.save({"state_dict": state, "extra": bomb}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match="could run code"):
        read_published(tmp_path / "evil.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(bomb))
    with pytest.raises(CheckpointError):
        read_published(tmp_path / "plain.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut"])
def test_damaged_files_are_errors(tmp_path, content):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"x\.pth"):
        read_published(tmp_path / "x.pth")


def test_a_file_without_a_model_is_an_error(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="no state dict"):
        read_published(tmp_path / "x.pth")


def test_other_settings_are_refused_with_the_differences(model, state, tmp_path):
    torch.save(state, tmp_path / "published.pth")
    overrides = {**model, "n_layers": 1, "load": str(tmp_path / "published.pth")}
    with pytest.raises(CheckpointError) as caught:
        run("PixelNet", "colours", overrides=overrides)
    assert "user_encoder.layers.layer.1." in str(caught.value)


def test_a_mask_in_the_item_table_is_taken_apart():
    state = {"item_embedding.weight": torch.randn(5, 2), "LayerNorm.bias": torch.randn(2)}
    like = {
        "item_encoder.embedding.weight": torch.zeros(4, 2),
        "user_encoder.mask_vector": torch.zeros(2),
    }
    ours, unknown = our_state(state, like)
    assert unknown == []
    table = ours["item_encoder.embedding.weight"]
    assert torch.equal(table, state["item_embedding.weight"][:4])
    assert torch.equal(ours["user_encoder.mask_vector"], state["item_embedding.weight"][4])


@pytest.mark.parametrize(
    ("names", "system"),
    [
        (["trm_encoder.layer.0.x", "item_embedding.weight"], "pixelrec"),
        (["visual_encoder.item_encoder.fc.0.weight"], "pixelrec"),
        (["id_embedding.weight", "user_encoder.transformer_encoder.x"], "idvsmorec"),
        (["cv_encoder.image_net.fc.weight"], "idvsmorec"),
        (["bert_encoder.text_encoders.title.nlp_model.x"], "ninerec"),
        (["fusion_module.fc_x.weight", "text_encoder.text_proj.bias"], "ninerec"),
        (["IMT.layer_norm.weight", "id_encoder.weight"], "odmt"),
    ],
)
def test_whose_code_wrote_it(names, system):
    assert system_of(names) == system
