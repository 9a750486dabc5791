"""Training: the same numbers for any number of workers, micro-batches and after a resume."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from recbole_morec.errors import CheckpointError
from recbole_morec.evaluation.evaluator import Report
from recbole_morec.run import evaluate, run

QUICK = {"epochs": 3, "train_batch_size": 16, "hidden_dropout_prob": 0.2}


def weights(checkpoint_dir):
    """Tensors of the last checkpoint of the one run under ``checkpoint_dir``."""
    (file,) = checkpoint_dir.rglob("last/model.safetensors")
    return load_file(file)


def train(settings, folder, model="PixelNet", **changes):
    overrides = {**settings, **QUICK, **changes, "checkpoint_dir": str(folder)}
    return run(model, "colours", overrides=overrides)


def assert_equal_weights(left, right):
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("objective", ["in_batch", "bpr"])
def test_loader_workers_change_no_number(settings, tmp_path, workers, objective):
    plain = train(settings, tmp_path / "0", objective=objective, epochs=2)
    other = train(settings, tmp_path / "n", objective=objective, epochs=2, worker=workers)
    assert plain["test"] == other["test"]
    assert_equal_weights(weights(tmp_path / "0"), weights(tmp_path / "n"))


def test_a_resumed_run_ends_where_an_unbroken_one_does(settings, tmp_path, monkeypatch):
    unbroken = train(settings, tmp_path / "whole", scheduler="cosine", warmup_ratio=0.2)

    from recbole_morec.training import trainer

    original = trainer.Trainer._train_epoch

    def crash_in_third_epoch(self):
        original(self)
        if self.state.epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(trainer.Trainer, "_train_epoch", crash_in_third_epoch)
    with pytest.raises(KeyboardInterrupt):
        train(settings, tmp_path / "parts", scheduler="cosine", warmup_ratio=0.2)
    monkeypatch.setattr(trainer.Trainer, "_train_epoch", original)
    resumed = train(settings, tmp_path / "parts", scheduler="cosine", warmup_ratio=0.2, resume=True)
    assert resumed["test"] == unbroken["test"]
    assert resumed["training"]["epochs"] == unbroken["training"]["epochs"] == 3
    assert_equal_weights(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    (whole,), (parts,) = [list((tmp_path / n).rglob("metrics.jsonl")) for n in ("whole", "parts")]
    assert places(parts) == places(whole)  # nothing stands twice


def places(file):
    records = [json.loads(line) for line in file.read_text().splitlines()]
    return [(record["kind"], record["epoch"], record["step"]) for record in records]


def test_a_run_does_not_resume_on_other_interactions(settings, world, tmp_path):
    folder = shutil.copytree(world, tmp_path / "data" / "colours")
    changes = {"data_path": str(folder.parent), "epochs": 1}
    train(settings, tmp_path / "saved", **changes)
    inter = folder / "colours.inter"
    inter.write_text("".join(inter.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(CheckpointError, match="other interactions"):
        train(settings, tmp_path / "saved", **changes, resume=True)


def test_a_run_in_low_precision_is_ranked_in_float32(settings, tmp_path):
    results = train(
        settings, tmp_path / "saved", item_encoder="image", epochs=1, mixed_precision="bf16"
    )
    (folder,) = (tmp_path / "saved" / "colours").iterdir()
    assert {tensor.dtype for tensor in weights(folder).values()} == {torch.float32}
    plain = evaluate(folder, overrides={"mixed_precision": "no"})
    assert plain["test"] == results["test"]


def test_long_waits_for_batches_are_told(settings, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", logger="recbole_morec")
    monkeypatch.setattr("recbole_morec.training.trainer._LONG_WAIT", 2.0)  # nobody waits that long
    train(settings, tmp_path / "never", epochs=1)
    assert "--worker=2" not in caplog.text
    monkeypatch.setattr("recbole_morec.training.trainer._LONG_WAIT", -1.0)
    train(settings, tmp_path / "always", epochs=1)
    assert "--worker=2" in caplog.text
    caplog.clear()
    train(settings, tmp_path / "beside", epochs=1, worker=1)
    assert "--worker=2" not in caplog.text


def test_micro_batches_add_up_to_the_batch(settings, tmp_path):
    # bpr terms do not depend on the other rows, so the sum over micro-batches is the batch.
    same = {"objective": "bpr", "hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0}
    whole = train(settings, tmp_path / "1", epochs=1, learner="sgd", **same)
    parts = train(settings, tmp_path / "4", epochs=1, learner="sgd", accumulation_steps=4, **same)
    left, right = weights(tmp_path / "1"), weights(tmp_path / "4")
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=1e-4, atol=1e-6)
    assert whole["training"]["epochs"] == parts["training"]["epochs"]


def test_the_run_folder_says_what_happened(settings, tmp_path):
    results = train(settings, tmp_path / "saved")
    (folder,) = (tmp_path / "saved" / "colours").iterdir()
    assert folder.name.startswith("PixelNet-")
    assert json.loads((folder / "results.json").read_text()) == results
    kinds = [json.loads(line)["kind"] for line in (folder / "metrics.jsonl").open()]
    assert kinds.count("train") == 3
    assert kinds.count("valid") == 3
    assert (folder / "run.log").read_text().count("valid NDCG@5") == 3
    assert not list(folder.rglob("*.pt")) + list(folder.rglob("*.pth"))
    again = evaluate(folder)
    assert again["test"] == results["test"]


def test_config_yaml_gives_the_same_run_again(settings, tmp_path):
    first = train(settings, tmp_path / "a", epochs=1)
    (file,) = (tmp_path / "a").rglob("config.yaml")
    again = run(config_files=[file], overrides={"checkpoint_dir": str(tmp_path / "b")})
    assert again["test"] == first["test"]
    (copy,) = (tmp_path / "b" / "colours").iterdir()
    assert copy.name == file.parent.name  # the same settings, the same hash


def test_early_stopping_is_recboles(settings, tmp_path, monkeypatch):
    values = iter([0.1, 0.3, 0.3, 0.2, 0.1, 0.4])
    monkeypatch.setattr(Report, "value", lambda report, metric: next(values))
    results = train(settings, tmp_path / "saved", epochs=30, stopping_step=1)
    # A tie is a gain; one evaluation without gain is borne, the second one stops.
    assert results["training"]["best_epoch"] == 3
    assert results["training"]["epochs"] == 5
