"""The text store: tokenised once, mapped from then on, never trusted blindly."""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import write_world
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from recbole_morec.cli import main
from recbole_morec.data import file_sum
from recbole_morec.data.atomic import ContentTable, read_content, write_content
from recbole_morec.data.content import TextReader, open_content, text_store
from recbole_morec.errors import DataError
from recbole_morec.item_encoders.base import TextNeed

TEXTS = [
    None,
    "red shirt",
    None,
    "blue shoe with a red sole",
    "",
    "红色 衬衫",
    "été Ü 👟 red",
    "\t",
]
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "blue", "shirt", "shoe", "sole", "红色", "été")


def make_tokenizer(words=WORDS, special=True, **names):
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if special:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    names = {
        "unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]",
        **names,
    }  # fmt: skip
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


class Untouchable(PreTrainedTokenizerFast):
    """Has the state of a tokenizer and must not tokenise."""

    def __call__(self, *args, **kwargs):
        raise AssertionError("tokenised again")


def untouchable(tokenizer):
    tokenizer.__class__ = type("TokenizersBackend", (Untouchable,), {})
    tokenizer.__class__.__qualname__ = type(make_tokenizer()).__qualname__
    return tokenizer


def stores(folder):
    return sorted(path.name for path in (folder / "prepared").glob("texts-*/"))


def assert_equal_readers(one, other):
    everyone = np.arange(len(one))
    for items in (everyone, everyone[::-1], everyone[:1], np.array([3, 3, 1])):
        for array, twin in zip(one.fetch(items), other.fetch(items), strict=True):
            np.testing.assert_array_equal(array, twin)
            assert (array.dtype, type(array)) == (twin.dtype, type(twin))
    np.testing.assert_array_equal(one.lengths, other.lengths)
    assert one.lengths.dtype == other.lengths.dtype
    for name in ("empty_items", "empty", "truncated", "unknown", "pad_id", "max_length"):
        assert getattr(one, name) == getattr(other, name), name
        assert type(getattr(one, name)) is type(getattr(other, name)), name
    assert len(one) == len(other)


def warnings(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def mapped(array):
    return isinstance(array.base, np.memmap) and array.base.mode == "r"


# --- equality -----------------------------------------------------------------------------------


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("length", [3, 5, 30])
def test_with_and_without_the_store_all_is_equal(tmp_path, special, length):
    plain = TextReader(make_tokenizer(special=special), TEXTS, length)
    built = TextReader(make_tokenizer(special=special), TEXTS, length, folder=tmp_path)
    tokenizer = untouchable(make_tokenizer(special=special))
    opened = TextReader(tokenizer, TEXTS, length, folder=tmp_path)
    assert_equal_readers(plain, built)
    assert_equal_readers(plain, opened)
    assert mapped(built._ids)
    assert mapped(opened._ids)
    assert len(stores(tmp_path)) == 1


def test_many_texts(tmp_path):
    rng = np.random.default_rng(0)
    texts = [None, *(" ".join(rng.choice(WORDS[4:], rng.integers(0, 9))) for _ in range(3000))]
    plain = TextReader(make_tokenizer(), texts, 6)
    assert_equal_readers(plain, TextReader(make_tokenizer(), texts, 6, folder=tmp_path))
    assert plain.truncated > 100
    assert plain.empty > 100


def test_a_catalogue_without_items(tmp_path):
    for texts in ([], [None]):
        for _ in range(2):
            reader = TextReader(make_tokenizer(), texts, 6, folder=tmp_path)
            assert reader.fetch(np.zeros(0, dtype=np.int64))[0].shape == (0, 1)
            assert (len(reader), reader.empty) == (len(texts), 0)
    assert len(stores(tmp_path)) == 2


# --- built once, and anew when anything changes -------------------------------------------------


def test_a_tokenizer_that_was_used_or_saved_finds_its_store(tmp_path):
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(tmp_path / "before")
    TextReader(tokenizer, TEXTS, 5, folder=tmp_path)
    tokenizer.save_pretrained(tmp_path / "after")  # with the cut of the last call in its state
    TextReader(untouchable(tokenizer), TEXTS, 5, folder=tmp_path)
    for name in ("before", "after"):
        read = AutoTokenizer.from_pretrained(tmp_path / name)
        TextReader(read, TEXTS, 5, folder=tmp_path)
    assert len(stores(tmp_path)) == 1


@pytest.mark.parametrize(
    ("tokenizer", "texts", "length"),
    [
        ({}, [*TEXTS[:-1], "red"], 5),
        ({}, [None, "red shirt\0", *TEXTS[2:]], 5),
        ({}, [TEXTS[0], TEXTS[3], TEXTS[2], TEXTS[1], *TEXTS[4:]], 5),  # other order of items
        ({}, [*TEXTS, None], 5),
        ({}, TEXTS, 6),
        ({"words": (*WORDS, "with")}, TEXTS, 5),
        ({"special": False}, TEXTS, 5),
        ({"truncation_side": "left"}, TEXTS, 5),
        ({"additional_special_tokens": ["shoe"]}, TEXTS, 5),
    ],
    ids=["text", "zero", "order", "more", "length", "words", "special", "side", "added"],
)
def test_any_change_is_another_store(tmp_path, tokenizer, texts, length):
    TextReader(make_tokenizer(), TEXTS, 5, folder=tmp_path)
    changed = TextReader(make_tokenizer(**tokenizer), texts, length, folder=tmp_path)
    assert len(stores(tmp_path)) == 2
    assert_equal_readers(TextReader(make_tokenizer(**tokenizer), texts, length), changed)


def test_texts_are_told_apart_by_where_they_end():
    assert text_store.text_hash(["ab", "c"]) != text_store.text_hash(["a", "bc"])
    assert text_store.text_hash([None, "a"]) == text_store.text_hash(["", "a"])  # same tokens


def test_few_stores_are_kept_those_used_last(tmp_path, caplog):
    names = []
    for age, length in enumerate((3, 4, 5, 6)):
        TextReader(make_tokenizer(), TEXTS, length, folder=tmp_path)
        (new,) = set(stores(tmp_path)) - set(names)
        names.append(new)
        os.utime(tmp_path / "prepared" / new / "meta.json", (1000 + age, 1000 + age))
    TextReader(make_tokenizer(), TEXTS, 3, folder=tmp_path)  # the oldest is used again
    other = tmp_path / "prepared" / "interactions"
    other.mkdir()
    leftover = tmp_path / "prepared" / ".texts-0123.4567.tmp"
    leftover.mkdir()
    with caplog.at_level(logging.INFO):
        TextReader(make_tokenizer(), TEXTS, 7, folder=tmp_path)
    assert set(names) - set(stores(tmp_path)) == {names[1]}
    assert f"{names[1]} removed" in caplog.text
    assert len(stores(tmp_path)) == 4
    assert other.is_dir()
    assert not leftover.exists()


# --- never trusted blindly ----------------------------------------------------------------------


def cut(store):
    path = store / "ids.npy"
    path.write_bytes(path.read_bytes()[:-4])


def flip(store):
    data = bytearray((store / "ids.npy").read_bytes())
    data[-3] ^= 1
    (store / "ids.npy").write_bytes(data)


def zeros(store):
    size = (store / "offsets.npy").stat().st_size
    (store / "offsets.npy").write_bytes(bytes(size))


def other_meta(store):
    meta = json.loads((store / "meta.json").read_text())
    (store / "meta.json").write_text(json.dumps({**meta, "max_length": 9}))


def other_type(store):
    np.save(store / "ids.npy", np.load(store / "ids.npy").astype(np.int64))


def a_file(store):
    shutil.rmtree(store)
    store.write_text("hello")


DAMAGES = {
    "cut": cut,
    "flip": flip,
    "zeros": zeros,
    "other meta": other_meta,
    "other type": other_type,
    "a file": a_file,
    "no ids": lambda store: (store / "ids.npy").unlink(),
    "no meta": lambda store: (store / "meta.json").unlink(),
    "empty meta": lambda store: (store / "meta.json").write_text(""),
    "list meta": lambda store: (store / "meta.json").write_text("[]"),
    "noise": lambda store: (store / "meta.json").write_bytes(b"\xff\xfe\x00"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_store_is_built_anew(tmp_path, caplog, damage):
    TextReader(make_tokenizer(), TEXTS, 5, folder=tmp_path)
    (name,) = stores(tmp_path)
    damage(tmp_path / "prepared" / name)
    with caplog.at_level(logging.WARNING):
        again = TextReader(make_tokenizer(), TEXTS, 5, folder=tmp_path)
    assert caplog.text.count("is damaged") == 1
    assert_equal_readers(TextReader(make_tokenizer(), TEXTS, 5), again)
    assert stores(tmp_path) == [name]
    TextReader(untouchable(make_tokenizer()), TEXTS, 5, folder=tmp_path)
    assert sorted(p.name for p in (tmp_path / "prepared").iterdir()) in (
        [name],
        [name, "texts.lock"],
    )


def test_large_files_are_looked_at_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(file_sum, "_BLOCK", 16)
    monkeypatch.setattr(file_sum, "_BLOCKS", 4)
    path = tmp_path / "x"
    path.write_bytes(bytes(1000))
    whole = file_sum.size_and_sum(path)
    for place, seen in [(0, True), (15, True), (16, False), (250, True), (500, True), (999, False)]:
        data = bytearray(1000)
        data[place] = 1
        path.write_bytes(data)
        assert (file_sum.size_and_sum(path) != whole) == seen, place


# --- folders that cannot be written to ----------------------------------------------------------


def one_warning(folder, caplog):
    with caplog.at_level(logging.INFO):
        reader = TextReader(make_tokenizer(), TEXTS, 5, folder=folder)
    assert caplog.text.count("Text store") == 1
    assert "cannot be written" in caplog.text
    assert "text_store: false" in caplog.text
    assert_equal_readers(TextReader(make_tokenizer(), TEXTS, 5), reader)


def test_a_file_in_the_place_of_prepared(tmp_path, caplog):
    (tmp_path / "prepared").write_text("mine")
    one_warning(tmp_path, caplog)
    assert (tmp_path / "prepared").read_text() == "mine"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write all")
def test_a_folder_without_the_right_to_write(tmp_path, caplog):
    tmp_path.chmod(0o500)
    try:
        one_warning(tmp_path, caplog)
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("call", ["mkdir", "rename"])
def test_a_read_only_or_full_disk(tmp_path, caplog, monkeypatch, call):
    def fail(*args, **kwargs):
        raise OSError(30, "Read-only file system")

    (tmp_path / "prepared").mkdir()
    monkeypatch.setattr(f"pathlib.Path.{call}", fail)
    one_warning(tmp_path, caplog)
    assert not any(p.is_dir() for p in (tmp_path / "prepared").iterdir())


def test_a_damaged_store_that_cannot_be_replaced(tmp_path, monkeypatch, caplog):
    TextReader(make_tokenizer(), TEXTS, 5, folder=tmp_path)
    cut(tmp_path / "prepared" / stores(tmp_path)[0])

    def fail(*args):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("pathlib.Path.rename", fail)
    reader = TextReader(make_tokenizer(), TEXTS, 5, folder=tmp_path)
    assert_equal_readers(TextReader(make_tokenizer(), TEXTS, 5), reader)
    damaged, not_written = warnings(caplog)
    assert "is damaged (ids.npy is not the file that was written)" in damaged
    assert "cannot be written" in not_written


def test_a_store_on_a_read_only_disk_is_opened(tmp_path, monkeypatch, caplog):
    TextReader(make_tokenizer(), TEXTS, 5, folder=tmp_path)

    def fail(*args, **kwargs):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("pathlib.Path.mkdir", fail)
    monkeypatch.setattr("os.utime", fail)
    monkeypatch.setattr(text_store, "FileLock", fail)
    reader = TextReader(untouchable(make_tokenizer()), TEXTS, 5, folder=tmp_path)
    assert mapped(reader._ids)
    assert not warnings(caplog)


# --- several processes --------------------------------------------------------------------------


class Counted(PreTrainedTokenizerFast):
    """Takes its time, and notes every call in a folder."""

    def __call__(self, *args, **kwargs):
        (self.notes / f"{os.getpid()}-{time.monotonic_ns()}").touch()
        time.sleep(0.5)
        return super().__call__(*args, **kwargs)


def build_in_a_process(folder, start, locks):
    tokenizer = make_tokenizer()
    tokenizer.__class__, tokenizer.notes = Counted, folder / "notes"
    if not locks:
        text_store._lock = lambda path: contextlib.nullcontext()
    start.wait(60)
    reader = TextReader(tokenizer, TEXTS, 5, folder=folder)
    np.save(folder / f"ids-{os.getpid()}.npy", reader.fetch(np.arange(len(TEXTS)))[0])


@pytest.mark.parametrize("locks", [True, False])
def test_several_processes_at_once(tmp_path, locks):
    (tmp_path / "notes").mkdir()
    context = multiprocessing.get_context("fork")
    start = context.Barrier(3)
    workers = [
        context.Process(target=build_in_a_process, args=(tmp_path, start, locks)) for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    calls = len(list((tmp_path / "notes").iterdir()))
    assert calls == (1 if locks else 3)
    expected = TextReader(make_tokenizer(), TEXTS, 5).fetch(np.arange(len(TEXTS)))[0]
    results = list(tmp_path.glob("ids-*.npy"))
    assert len(results) == 3
    for result in results:
        np.testing.assert_array_equal(np.load(result), expected)
    assert len(stores(tmp_path)) == 1
    assert not list((tmp_path / "prepared").glob(".*.tmp"))


@pytest.mark.parametrize("step", ["tokenise", "rename"])
def test_a_process_that_was_faster_is_no_trouble(tmp_path, monkeypatch, caplog, step):
    """Without locks: the store of another process is there when this one comes to write its own."""
    tokenise, rename = text_store.tokenise, Path.rename
    other = tmp_path / "other" / "prepared"
    other.parent.mkdir()
    TextReader(make_tokenizer(), TEXTS, 5, folder=other.parent)

    def tokenise_late(*args):
        if step == "tokenise":
            shutil.copytree(other, tmp_path / "prepared", dirs_exist_ok=True)
        return tokenise(*args)

    def rename_late(path, target):
        if step == "rename":
            shutil.copytree(other, tmp_path / "prepared", dirs_exist_ok=True)
        return rename(path, target)

    monkeypatch.setattr(text_store, "tokenise", tokenise_late)
    monkeypatch.setattr(Path, "rename", rename_late)
    reader = TextReader(make_tokenizer(), TEXTS, 5, folder=tmp_path)
    (name,) = stores(tmp_path)
    files = [place / name / "ids.npy" for place in (other, tmp_path / "prepared")]
    assert files[0].stat().st_mtime_ns == files[1].stat().st_mtime_ns  # the copy was left alone
    assert mapped(reader._ids)
    assert not warnings(caplog)


# --- fields and languages, and the log ----------------------------------------------------------


@pytest.fixture
def shop(tmp_path):
    """Three items with titles in two languages, through the file."""
    table = ContentTable(
        {"title_zh": "text", "title_en": "text"},
        ["a", "b", "c"],
        {
            "title_zh": ["红色 衬衫", None, "été\t红色"],
            "title_en": ["red shirt", "blue shoe", None],
        },
    )
    write_content(tmp_path / "shop.content", table)
    return SimpleNamespace(
        folder=tmp_path,
        content=read_content(tmp_path / "shop.content"),
        content_rows=np.array([-1, 0, 1, 2]),
        item_tokens=np.array(["[PAD]", "a", "b", "c"], dtype=object),
    )


def open_texts(dataset, *fields, tokenizer=None, length=8, **changes):
    config = {"image_field": None, "missing_content": "error", "show_progress": False}
    config |= {"text_store": True, **changes}
    need = TextNeed(tokenizer or make_tokenizer(), fields, length)
    return open_content(dataset, [need], config).fetch(np.array([1, 2, 3]))


def test_a_language_is_a_field(shop):
    for _ in range(2):
        english = open_texts(shop, "title_en")["text_ids"].tolist()
        chinese = open_texts(shop, "title_zh")["text_ids"].tolist()
        both = open_texts(shop)["text_ids"].tolist()
        assert english == [[2, 4, 6, 3], [2, 5, 7, 3], [2, 3, 0, 0]]
        assert chinese == [[2, 9, 1, 3], [2, 3, 0, 0], [2, 10, 9, 3]]
        assert both == [[2, 9, 1, 4, 6, 3], [2, 5, 7, 3, 0, 0], [2, 10, 9, 3, 0, 0]]
    assert len(stores(shop.folder)) == 3


def test_the_log_counts_alike_whether_built_or_opened(shop, caplog):
    lines = []
    for store in (False, True, True):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            open_texts(shop, "title_en", length=3, text_store=store)
        lines += [r.getMessage() for r in caplog.records if r.getMessage().startswith("Texts")]
    assert lines == ["Texts (title_en): 3 items, 2 cut at 3 tokens, 1 empty (c)."] * 3


def test_a_tokenizer_of_another_language_is_warned_of(shop, caplog):
    ascii_only = make_tokenizer(WORDS[:9])
    for _ in range(2):  # built, then opened
        caplog.clear()
        open_texts(shop, "title_zh", tokenizer=ascii_only)
        assert "does not know 100% of the tokens" in caplog.text
    caplog.clear()
    open_texts(shop, "title_en", tokenizer=ascii_only)
    assert not warnings(caplog)


def test_a_start_token_is_not_unknown():
    """OPT has one token for the start of a text and for what it does not know."""
    reader = TextReader(make_tokenizer(unk_token="[CLS]"), [None, "red", "shirt"], 5)
    assert reader.unknown == 0


def test_texts_that_are_all_empty_are_still_an_error(shop):
    shop.content.columns["title_en"] = [None] * 3
    for _ in range(2):
        with pytest.raises(DataError, match="empty text"):
            open_texts(shop, "title_en")


# --- whole runs ---------------------------------------------------------------------------------


def test_a_run_keeps_its_tokens_and_the_numbers_are_those_without(tmp_path):
    world = write_world(tmp_path / "data" / "colours", users=20, items_per_colour=9)

    def train(*flags):
        folder = tmp_path / f"saved{len(list(tmp_path.iterdir()))}"
        status = main(
            [
                "--model=MoRec", "--dataset=colours", f"--data_path={world.parent}", "--epochs=1",
                "--show_progress=False", "--use_gpu=False", "--log_tensorboard=False",
                f"--checkpoint_dir={folder}", "--topk=[3]", "--valid_metric=NDCG@3", *flags,
            ]
        )  # fmt: skip
        assert status == 0
        (run,) = (folder / "colours").iterdir()
        return run, json.loads((run / "results.json").read_text())["test"]

    run, without = train("--text_store=False")
    assert not stores(world)
    for _ in range(2):
        again, results = train()
        assert results == without
        assert again.name == run.name  # the setting changes no number, so no run folder either
        assert len(stores(world)) == 1
    assert main(["evaluate", str(again), "--show_progress=False"]) == 0
    assert len(stores(world)) == 1  # the tokenizer in the run folder is the same one
