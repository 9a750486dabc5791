"""From published files to rows, splits, masks and popularity: as the published loaders make them.

Items and users are compared by their names. Where numbers are given out differs: PixelRec numbers
items by first appearance in the file, as ours; the others by their item file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recbole_morec.config import MoRecConfig
from recbole_morec.convert import SOURCES, _pipeline
from recbole_morec.convert._source import Options
from recbole_morec.data.dataset import MultimodalDataset
from recbole_morec.data.histories import gather_left_padded
from recbole_morec.data.windows import Rows, Windows

from .conftest import Golden


def numbers(golden: Golden, key: str) -> np.ndarray:
    return golden.tensor(key).numpy()


def words(golden: Golden, key: str) -> list[str]:
    return [str(word) for word in golden.array(key)]


def lists(matrix: np.ndarray, names: list[str]) -> list[list[str]]:
    """Rows filled with 0 on either side, as lists of names."""
    return [[names[number] for number in row if number] for row in matrix.tolist()]


class Ours:
    """A dataset of ours under a protocol, with everything by name."""

    def __init__(self, folder: Path, **settings):
        overrides = {"data_path": str(folder.parent), **settings}
        config = MoRecConfig("PixelNet", folder.name, overrides=overrides)
        self.dataset = MultimodalDataset(config)
        self.items = [str(token) for token in self.dataset.item_tokens]
        self.users = [str(token) for token in self.dataset.user_tokens]
        self.length = self.dataset.protocol.max_length
        self._flat = self.dataset.histories.items

    def named(self, start: int, stop: int) -> list[str]:
        return [self.items[item] for item in self._flat[start:stop]]

    def trained(self) -> dict[str, list[str]]:
        """User -> training part."""
        splits = self.dataset.splits
        return {
            self.users[user]: self.named(splits.start[user], splits.train_stop[user])
            for user in range(1, len(self.users))
            if splits.train_stop[user] > splits.start[user]
        }

    def phase(self, phase: str) -> dict[str, tuple[list[str], str, list[str]]]:
        """User -> what a model reads, the target, and what may not be ranked."""
        dataset, found = self.dataset, {}
        splits = dataset.splits
        whole = dataset.protocol.history_mask == "full"
        for user, target in zip(splits.users[phase], splits.targets[phase], strict=True):
            start = splits.start[user]
            read = gather_left_padded(
                self._flat, np.array([start]), np.array([target]), self.length
            )[0]
            first = dataset.histories.offsets[user] if whole else start
            found[self.users[user]] = (
                [self.items[item] for item in read if item],
                self.items[self._flat[target]],
                self.named(first, target),
            )
        return found

    def rows(self, rows: Rows) -> list[tuple[str, list[str]]]:
        user, start, stop = rows.ranges(np.arange(len(rows)))
        return [
            (self.users[u], self.named(a, b)) for u, a, b in zip(user, start, stop, strict=True)
        ]


def convert(source: str, raw: Path, output: Path, **options) -> Path:
    options = Options.of(input=raw, output=output, **options)
    _pipeline.convert_source(source, SOURCES[source].find, options)
    return output


# --- PixelRec -------------------------------------------------------------------------------------


@pytest.fixture
def pixelrec(golden, tmp_path):
    data = golden("pixelrec/data_pipeline")
    columns = zip(
        words(data, "in/item_id"), words(data, "in/user_id"),
        numbers(data, "in/timestamp").tolist(), strict=True,
    )  # fmt: skip
    raw = tmp_path / "raw"
    raw.mkdir()
    lines = ["item_id,user_id,timestamp", *(",".join(map(str, row)) for row in columns)]
    (raw / "Pixel200K.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    folder = convert("folder", raw, tmp_path / "data" / "pixel", interactions="Pixel200K.csv")
    settings = {"protocol": "pixelrec", "MAX_ITEM_LIST_LENGTH": data.sizes["MAX_ITEM_LIST_LENGTH"]}
    return data, Ours(folder, **settings)


def test_pixelrec_numbers_and_sequences(pixelrec):
    data, ours = pixelrec
    assert ours.items == words(data, "out/item_tokens")
    assert ours.users == words(data, "out/user_tokens")
    offsets = ours.dataset.histories.offsets
    order = numbers(data, "out/user_order")
    for user, sequence in zip(order, lists(numbers(data, "out/user_seq"), ours.items), strict=True):
        assert ours.named(offsets[user], offsets[user + 1]) == sequence


@pytest.mark.parametrize("phase", ["valid", "test"])
def test_pixelrec_evaluation(pixelrec, phase):
    data, ours = pixelrec
    order = [ours.users[user] for user in numbers(data, "out/user_order")]
    read = lists(numbers(data, f"out/{phase}_item_seq"), ours.items)
    seen = lists(numbers(data, f"out/{phase}_history"), ours.items)
    target = [ours.items[item] for item in numbers(data, f"out/{phase}_target")]
    found = ours.phase(phase)
    assert found.keys() == set(order)
    for user, *expected in zip(order, read, target, seen, strict=True):
        assert found[user] == tuple(expected)


def test_pixelrec_windows(pixelrec):
    """As published with ``window_remainder: drop``; ours by default keeps the oldest items, which
    the published code drops. A window of one item has nothing to predict: ours makes none."""
    data, ours = pixelrec
    published = [
        (ours.users[user], window)
        for user, window in zip(
            numbers(data, "out/window_user"),
            lists(numbers(data, "out/windows"), ours.items),
            strict=True,
        )
    ]
    splits = ours.dataset.splits
    dropped = ours.rows(Windows(splits, ours.length, "drop"))
    key = repr
    assert sorted(dropped, key=key) == sorted([w for w in published if len(w[1]) > 1], key=key)
    kept = ours.rows(Windows(splits, ours.length, "keep"))
    short = [window for window in kept if window not in dropped]
    assert all(1 < len(window) <= ours.length for _, window in short)
    trained = ours.trained()
    lost = sum(len(part) for part in trained.values()) - sum(len(w) for _, w in published)
    once = sum(len(part) % (ours.length + 1) == 1 and len(part) > 1 for part in trained.values())
    assert lost == sum(len(window) for _, window in short) + once


def test_pixelrec_prefixes(pixelrec):
    """AUGSEQ: all prefixes of every window. Ours gives a window's states in one row, each of
    them after the same items."""
    data, ours = pixelrec
    published = zip(
        numbers(data, "out/prefix_user"), lists(numbers(data, "out/prefixes"), ours.items),
        strict=True,
    )  # fmt: skip
    windows = ours.rows(Windows(ours.dataset.splits, ours.length, "drop"))
    made = [(user, w[:stop]) for user, w in windows for stop in range(2, len(w) + 1)]
    expected = [(ours.users[user], prefix) for user, prefix in published]
    assert sorted(made, key=repr) == sorted(expected, key=repr)


def test_pixelrec_pairs(pixelrec):
    data, ours = pixelrec
    pairs = zip(numbers(data, "out/pair_user"), numbers(data, "out/pair_item"), strict=True)
    expected = sorted((ours.users[user], ours.items[item]) for user, item in pairs)
    trained = ours.trained()
    assert sorted((user, item) for user, part in trained.items() for item in part) == expected


# --- IDvs.MoRec and NineRec -----------------------------------------------------------------------


def behaviours(data: Golden, tmp_path: Path, source: str) -> Path:
    raw = tmp_path / "raw"
    raw.mkdir()
    lines = words(data, "in/behaviour_lines")
    items = words(data, "in/item_names")
    if source == "morec":
        (raw / "hm_50w_users.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        (raw / "hm_50w_items.tsv").write_text("\n".join(items) + "\n", encoding="utf-8")
    else:
        rows = [f'{name},"标题","a title"' for name in items]
        (raw / "QB_behaviour.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        (raw / "QB_item.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return convert(source, raw, tmp_path / "data" / "published")


@pytest.fixture(params=["idvsmorec", "ninerec"])
def users_lines(request, golden, tmp_path):
    data = golden(f"{request.param}/data_pipeline")
    source = "morec" if request.param == "idvsmorec" else "ninerec"
    folder = behaviours(data, tmp_path, source)
    length = data.sizes["max_seq_len"]
    settings = {
        "protocol": source, "MAX_ITEM_LIST_LENGTH": length,
        "min_user_inter": data.sizes["min_seq_len"],
    }  # fmt: skip
    return data, folder, Ours(folder, **settings)


def kept_users(data: Golden) -> list[str]:
    found = []
    for line in words(data, "in/behaviour_lines"):
        user, items = line.split("\t")
        if len(items.split()) >= data.sizes["min_seq_len"]:
            found.append(user)
    return found


def test_kept_items_and_training_parts(users_lines):
    data, _, ours = users_lines
    names = ["", *words(data, "out/item_names_kept")]
    parts = lists(numbers(data, "out/train"), names)
    trained = ours.trained()
    assert trained == dict(zip(kept_users(data), parts, strict=True))
    candidates = {ours.items[item] for item in np.flatnonzero(ours.dataset.candidates)}
    assert candidates == set(names[1:])
    rows = ours.rows(Windows(ours.dataset.splits, ours.length, "keep", last=True))
    assert dict(rows) == {user: part[-ours.length - 1 :] for user, part in trained.items()}


@pytest.mark.parametrize("phase", ["valid", "test"])
def test_evaluation_of_the_newest_items(users_lines, phase):
    data, _, ours = users_lines
    names = ["", *words(data, "out/item_names_kept")]
    sequences = lists(numbers(data, f"out/{phase}"), names)
    seen = lists(numbers(data, f"out/history_{phase}"), names)
    found = ours.phase(phase)
    assert list(found) == kept_users(data)
    for (read, target, barred), sequence, masked in zip(
        found.values(), sequences, seen, strict=True
    ):
        assert [*read, target] == sequence
        assert set(barred) == set(masked)


def test_popularity_is_the_share_of_training_interactions(users_lines):
    data, _, ours = users_lines
    if "out/pop_prob" not in data:
        pytest.skip("not published for this system")
    names = words(data, "out/item_names_kept")
    published = dict(zip(names, numbers(data, "out/pop_prob")[1:].tolist(), strict=True))
    share = dict(zip(ours.items, ours.dataset.popularity.tolist(), strict=True))
    assert {name: share[name] for name in names} == pytest.approx(published)


def test_pairs_of_the_table_of_users(users_lines):
    """DSSM: every training item of a user is a pair. NineRec's keeps one item fewer."""
    data, folder, ours = users_lines
    if data.facts["system"] == "ninerec":
        keep = data.sizes["max_seq_len"] + 2
        ours = Ours(
            folder, protocol="ninerec", MAX_ITEM_LIST_LENGTH=data.sizes["max_seq_len"],
            truncate_history=keep, min_user_inter=data.sizes["min_seq_len"],
        )  # fmt: skip
    users = kept_users(data)
    found = ours.trained()
    counted = {user: len(part) for user, part in found.items()}
    pairs = numbers(data, "out/dssm_train_pairs")
    published = {users[u - 1]: int((pairs[:, 0] == u).sum()) for u in np.unique(pairs[:, 0])}
    assert counted == published
    for phase in ("valid", "test"):
        targets = numbers(data, f"out/dssm_{phase}_pairs")
        assert [users[u - 1] for u in targets[:, 0]] == list(ours.phase(phase))


def test_ninerecs_windows_of_bert4rec(golden, tmp_path):
    """NineRec counts the mask's slot to the window: its L of BERT4Rec is ours plus one. It keeps
    the newest L + 2, which are our L + 3."""
    data = golden("ninerec/data_pipeline")
    folder = behaviours(data, tmp_path, "ninerec")
    length = data.sizes["max_seq_len"]
    ours = Ours(
        folder, protocol="ninerec", MAX_ITEM_LIST_LENGTH=length - 1,
        min_user_inter=data.sizes["min_seq_len"],
    )  # fmt: skip
    names = ["", *words(data, "out/bert4rec_item_names_kept")]
    trained = dict(
        zip(kept_users(data), lists(numbers(data, "out/bert4rec_train"), names), strict=True)
    )
    assert ours.trained() == trained
    for phase in ("valid", "test"):
        sequences = lists(numbers(data, f"out/bert4rec_{phase}"), names)
        seen = lists(numbers(data, f"out/bert4rec_history_{phase}"), names)
        for found, sequence, masked in zip(
            ours.phase(phase).values(), sequences, seen, strict=True
        ):
            assert [*found[0], found[1]] == sequence
            assert set(found[2]) == set(masked)
    # The published catalogue counts the mask, its last item; ours keeps it apart.
    candidates = {ours.items[item] for item in np.flatnonzero(ours.dataset.candidates)}
    assert candidates == set(names[1:-1])
