"""A model that sees finds unseen items of the right colour; one that knows IDs alone cannot."""

import pytest

from recbole_morec.run import evaluate, run


@pytest.fixture
def learning(settings):
    return {
        **settings, "epochs": 25, "train_batch_size": 16, "learning_rate": 3e-3,
        "encoder_learning_rate": 1e-3, "stopping_step": 25, "topk": [3],
        "valid_metric": "NDCG@3",
    }  # fmt: skip


def cold_recall(results):
    return results["test"]["cold"]["recall@3"]


@pytest.mark.parametrize(
    ("model", "encoder"),
    [("PixelNet", "image"), ("MoRec", "text"), ("MoRec", "image+text")],
)
def test_content_finds_cold_items(learning, model, encoder):
    settings = {**learning, "item_encoder": encoder, "learning_rate": 1e-3}
    results = run(model, "colours", overrides=settings)
    assert cold_recall(results) > 0.8  # chance is 3 in 33


def test_ids_do_not(learning):
    results = run("PixelNet", "colours", overrides={**learning, "item_encoder": "id"})
    assert cold_recall(results) < 0.4
    assert results["test"]["warm"]["recall@3"] > 0.8


def test_bpr_learns_too(learning):
    results = run(
        "PixelNet", "colours", overrides={**learning, "item_encoder": "image", "objective": "bpr"}
    )
    assert cold_recall(results) > 0.6


@pytest.mark.parametrize("encoder", ["image", "text"])
def test_a_content_model_moves_to_another_dataset(learning, world, tmp_path, encoder):
    from conftest import write_world

    write_world(tmp_path / "data" / "elsewhere", seed=5, items_per_colour=12)
    settings = {**learning, "item_encoder": encoder, "learning_rate": 1e-3}
    trained = run("PixelNet", "colours", overrides=settings)
    assert cold_recall(trained) > 0.5
    (folder,) = (tmp_path / "saved" / "colours").iterdir()
    # The tokenizer there numbers words otherwise; the run keeps its own.
    moved = evaluate(folder, "elsewhere", {"data_path": str(tmp_path / "data")})
    assert moved["test"]["all"]["recall@3"] > 0.3  # 12 items a colour, nothing trained there
