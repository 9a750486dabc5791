"""The feature store: any file of vectors, any dataset, one line, in bounded memory."""

from __future__ import annotations

import json
import logging
import re
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import COLOURS, write_world
from pyarrow import parquet
from safetensors.torch import save_file

from recbole_morec.cli import main
from recbole_morec.data.content import feature_store
from recbole_morec.data.content.feature_store import gather_features, open_features
from recbole_morec.errors import DataError
from recbole_morec.models.base import MultimodalSequential
from recbole_morec.models.lookup import find_model, our_models
from recbole_morec.user_encoders import USER_ENCODERS

ROOT = Path(__file__).resolve().parent.parent
ITEMS = ["[PAD]", "7", "b c", "é", "[PAD] too"]
TOKENS = ["x", "é", "[PAD] too", "[PAD]", "7", "b c"]  # two of them no items of the dataset
VALUES = np.arange(18).reshape(6, 3)
EXPECTED = np.array([[0, 0, 0], [12, 13, 14], [15, 16, 17], [3, 4, 5], [6, 7, 8]])


def write_npy(path, tokens, values):
    np.save(path, values)
    path.with_suffix(".tokens.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")


def write_safetensors(path, tokens, values):
    save_file({"features": values}, path, metadata={"tokens": json.dumps(tokens)})


def write_parquet(path, tokens, values, groups=2):
    table = pa.table({"item_id": tokens, "vector": values})
    parquet.write_table(table, path, row_group_size=groups)


def fixed(values, dtype=np.float32):
    return pa.FixedSizeListArray.from_arrays(values.astype(dtype).ravel(), values.shape[1])


FILES = {
    **{
        f"{np.dtype(kind)} npy": (write_npy, TOKENS, VALUES.astype(kind))
        for kind in (np.float16, np.float32, np.float64, np.int8, np.uint16, ">f4")
    },
    "fortran npy": (write_npy, TOKENS, np.asfortranarray(VALUES.astype(np.float32))),
    **{
        f"{kind} safetensors": (write_safetensors, TOKENS, torch.from_numpy(VALUES).to(kind))
        for kind in (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int32)
    },
    "list parquet": (write_parquet, TOKENS, pa.array(VALUES.tolist(), pa.list_(pa.float32()))),
    "large parquet": (write_parquet, TOKENS, pa.array(VALUES.tolist(), pa.large_list(pa.int64()))),
    "fixed parquet": (write_parquet, TOKENS, fixed(VALUES)),
    "half parquet": (write_parquet, TOKENS, fixed(VALUES, np.float16)),
    "category parquet": (write_parquet, pa.array(TOKENS).dictionary_encode(), fixed(VALUES)),
}


@pytest.mark.parametrize("block", [1, 24, 2**20], ids=["row by row", "two rows", "whole"])
@pytest.mark.parametrize("kind", FILES)
def test_rows_are_found_by_token_in_any_format(tmp_path, monkeypatch, caplog, kind, block):
    monkeypatch.setattr(feature_store, "BLOCK_BYTES", block)
    write, tokens, values = FILES[kind]
    path = tmp_path / f"a.{kind.split()[-1]}"
    write(path, tokens, values)
    with caplog.at_level(logging.INFO):
        matrix = gather_features(open_features(path), ITEMS)
    assert matrix.dtype == np.float32
    np.testing.assert_array_equal(matrix, EXPECTED)
    assert "has 6 vectors of 3 numbers" in caplog.text
    assert "2 of them of items that the dataset does not have" in caplog.text


def test_numbers_as_item_ids(tmp_path):
    write_parquet(tmp_path / "a.parquet", pa.array([5, 7]), fixed(VALUES[:2]))
    write_safetensors(tmp_path / "a.safetensors", [5, 7], torch.from_numpy(VALUES[:2]))
    for name in ("a.parquet", "a.safetensors"):
        matrix = gather_features(open_features(tmp_path / name), ["[PAD]", "7"])
        assert matrix.tolist() == [[0, 0, 0], [3, 4, 5]]


def test_memory_holds_one_copy(tmp_path, monkeypatch):
    monkeypatch.setattr(feature_store, "BLOCK_BYTES", 2**18)
    values = np.ones((20_000, 100), np.float16)
    write_npy(tmp_path / "a.npy", [str(n) for n in range(len(values))], values)
    file = open_features(tmp_path / "a.npy")
    items = ["[PAD]", *file.tokens[::-1]]
    tracemalloc.start()
    matrix = gather_features(file, items)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert matrix.nbytes < most < 1.5 * matrix.nbytes


# --- what is missing or wrong -------------------------------------------------------------------


def test_missing_items_are_named_or_zero(tmp_path, caplog):
    write_npy(tmp_path / "a.npy", TOKENS[:3], VALUES[:3].astype(np.float32))
    file = open_features(tmp_path / "a.npy")
    with pytest.raises(DataError, match=r"no row for 2 of 4 items, for example 7, b c\. .*blank"):
        gather_features(file, ITEMS)
    assert not caplog.text
    matrix = gather_features(file, ITEMS, "blank")
    assert matrix.tolist() == [[0] * 3, [0] * 3, [0] * 3, [3, 4, 5], [6, 7, 8]]
    assert "2 of 4 items have no row" in caplog.text
    assert "(7, b c): they get a zero vector" in caplog.text


@pytest.mark.parametrize("policy", ["error", "blank"])
def test_a_file_of_other_items_is_an_error(tmp_path, policy):
    write_npy(tmp_path / "a.npy", ["7.0", "8.0"], VALUES[:2].astype(np.float32))
    with pytest.raises(DataError, match=r"any of the 4 items: the file names '7.0', the data.*'7'"):
        gather_features(open_features(tmp_path / "a.npy"), ITEMS, policy)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
@pytest.mark.parametrize("block", [12, 2**20], ids=["row by row", "whole"])
def test_only_rows_that_are_used_must_be_finite(tmp_path, monkeypatch, bad, block):
    monkeypatch.setattr(feature_store, "BLOCK_BYTES", block)
    values = VALUES.astype(np.float64)
    values[0, 1] = values[3, 1] = bad
    write_npy(tmp_path / "a.npy", TOKENS, values)
    np.testing.assert_array_equal(
        gather_features(open_features(tmp_path / "a.npy"), ITEMS), EXPECTED
    )
    values[2, 1] = bad
    write_npy(tmp_path / "a.npy", TOKENS, values)
    with pytest.raises(DataError, match=r"1 rows hold .* not finite, .* item '\[PAD\] too'"):
        gather_features(open_features(tmp_path / "a.npy"), ITEMS)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[1.0, 2.0], None], r"different lengths: \[0, 2\]"),
        ([[1.0, 2.0], [1.0]], r"different lengths: \[1, 2\]"),
        ([None, [1.0, 2.0]], "first vector is empty"),
        ([[1.0, None], [1.0, 2.0]], "not finite, the first for item '7'"),
        ([], "has no row"),
    ],
)
@pytest.mark.parametrize("groups", [1, 2])
def test_odd_vectors_in_parquet(tmp_path, rows, message, groups):
    path = tmp_path / "a.parquet"
    vectors = pa.array(rows, pa.list_(pa.float32()))
    write_parquet(path, pa.array(["7", "é"][: len(rows)], pa.string()), vectors, groups)
    with pytest.raises(DataError, match=message):
        gather_features(open_features(path), ["[PAD]", "7", "é"])


def test_vectors_without_numbers(tmp_path):
    write_npy(tmp_path / "a.npy", ["7"], np.zeros((1, 0), np.float32))
    with pytest.raises(DataError, match=r"shape \(1, 0\)"):
        open_features(tmp_path / "a.npy")


@pytest.mark.parametrize("block", [1, 2**20], ids=["row by row", "whole"])
@pytest.mark.parametrize("write", [write_npy, write_safetensors])
def test_maps_are_regions(tmp_path, monkeypatch, write, block):
    monkeypatch.setattr(feature_store, "BLOCK_BYTES", block)
    maps = np.arange(2 * 2 * 3 * 5, dtype=np.float32).reshape(2, 2, 3, 5)
    path = tmp_path / ("a.npy" if write is write_npy else "a.safetensors")
    write(path, ["x", "y"], maps if write is write_npy else torch.from_numpy(maps))
    file = open_features(path)
    assert file.shape == (6, 5)
    found = gather_features(file, ["[PAD]", "y", "x"])
    np.testing.assert_array_equal(found[1:], maps[::-1].reshape(2, 6, 5))
    assert not found[0].any()


# --- one line, every sequential model -----------------------------------------------------------


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """The colour world with one vector per item that tells its colour."""
    folder = write_world(tmp_path_factory.mktemp("data") / "colours")
    tokens = [f"{colour}{n}" for colour in COLOURS for n in range(10)]
    vectors = np.repeat(np.eye(4, dtype=np.float32), 10, axis=0)
    write_npy(folder / "vectors.npy", tokens, vectors)
    write_npy(folder / "half.npy", tokens, vectors.astype(np.float16))
    write_safetensors(folder / "vectors.safetensors", tokens, torch.from_numpy(vectors))
    write_parquet(folder / "vectors.parquet", tokens, fixed(vectors), 7)
    write_npy(folder / "few.npy", tokens[:-2], vectors[:-2])
    return folder


def train(shop, saved, *flags, model="PixelNet"):
    status = main(
        [
            f"--model={model}", "--dataset=colours", f"--data_path={shop.parent}", "--epochs=3",
            "--show_progress=False", "--use_gpu=False", "--log_tensorboard=False", "--topk=[5]",
            f"--checkpoint_dir={saved}", "--valid_metric=NDCG@5", "--learning_rate=0.01", *flags,
        ]
    )  # fmt: skip
    if status:
        return status
    (run,) = (saved / "colours").iterdir()
    return json.loads((run / "results.json").read_text())["test"]["all"]


SEQUENTIAL = [
    name
    for name in our_models()
    if issubclass(find_model(name), MultimodalSequential)
    and "user_encoder" in find_model(name).chooses
]


@pytest.mark.parametrize("user_encoder", USER_ENCODERS.names())
@pytest.mark.parametrize("model", SEQUENTIAL)
def test_every_sequential_model_takes_stored_vectors(shop, tmp_path, model, user_encoder):
    flags = ["--item_encoder=features", "--features=vectors.npy", f"--user_encoder={user_encoder}"]
    metrics = train(shop, tmp_path, *flags, model=model)
    # 40 items, 10 of the user's colour, 7 of those seen: it sees the colour, or has 5 / 33.
    assert metrics["recall@5"] > 0.4


def test_all_formats_give_the_same_numbers(shop, tmp_path):
    names = ["vectors.npy", "half.npy", "vectors.safetensors", "vectors.parquet"]
    results = [
        train(shop, tmp_path / name, "--item_encoder=features", f"--features={name}")
        for name in names
    ]
    assert results[1:] == results[:1] * 3


def test_stored_vectors_join_a_text_encoder(shop, tmp_path):
    flags = ["--item_encoder=[features,tiny_bert]", "--features=vectors.npy"]
    assert "recall@5" in train(shop, tmp_path, *flags, model="MoRec")


def test_items_without_a_vector_in_a_run(shop, tmp_path, capsys):
    flags = ["--item_encoder=features", "--features=few.npy"]
    assert train(shop, tmp_path / "refused", *flags) == 2
    said = capsys.readouterr().err
    assert "no row for 2 of 40 items" in said
    assert "missing_content: blank" in said
    assert "recall@5" in train(shop, tmp_path / "blank", *flags, "--missing_content=blank")
    assert "they get a zero vector" in capsys.readouterr().err


def test_the_recipe_of_the_docs(shop, tmp_path):
    folder = shutil.copytree(shop, tmp_path / "colours", ignore=shutil.ignore_patterns("vectors*"))
    (code,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "stores.md").read_text("utf-8"), re.DOTALL
    )
    exec(code, {"folder": folder, "name": "colours"})
    matrices = [
        gather_features(open_features(folder / f"vectors.{suffix}"), ["[PAD]", "red0", "blue3"])
        for suffix in ("npy", "safetensors", "parquet")
    ]
    assert np.abs(matrices[0][1:]).min() > 0
    for matrix in matrices[1:]:
        np.testing.assert_array_equal(matrix, matrices[0])
    flags = ["--item_encoder=features", "--features=vectors.safetensors"]
    assert "recall@5" in train(folder, tmp_path / "saved", *flags)
