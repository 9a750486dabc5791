"""From published files to rows, splits, masks and popularity: as the published loaders make them.

Every log goes the way of a user's data: files as they are distributed, ``convert``, a dataset under
its protocol, the batches that the trainer reads and what the evaluator ranks. Items and users are
compared by name, since the systems number them differently: PixelRec by first appearance in the
file, as ours, the others by their item file.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from recbole_morec.config import MoRecConfig
from recbole_morec.convert import SOURCES, _pipeline
from recbole_morec.convert._images import ImageFiles
from recbole_morec.convert._source import Options
from recbole_morec.data.dataset import MultimodalDataset
from recbole_morec.evaluation.evaluator import Evaluator
from recbole_morec.evaluation.scorers import Scorer
from recbole_morec.models.adapter import build_adapter

from .conftest import Golden
from .evaluations import ranked_candidates

History = list[str]

# Every published row trains all its slots; which model reads it decides what a row is.
EVERY_ITEM = {"user_encoder": "SASRec", "objective": "bpr"}
EVERY_PREFIX = {"user_encoder": "SRGNN", "objective": "bpr"}
EVERY_PAIR = {"user_encoder": "UserID", "objective": "bpr"}


def numbers(golden: Golden, key: str) -> np.ndarray:
    return golden.tensor(key).numpy()


def words(golden: Golden, key: str) -> list[str]:
    return [str(word) for word in golden.array(key)]


def lists(matrix: np.ndarray, names: list[str]) -> list[History]:
    """Rows filled with 0 on either side, as lists of names."""
    return [[names[number] for number in row if number] for row in matrix.tolist()]


class Seen(Scorer):
    """Scores everything alike and keeps the users and histories that it is asked about."""

    def __init__(self, items: int):
        self.items, self.asked = items, []

    def scores(self, users, histories):
        self.asked.append((users, histories))
        return torch.zeros(len(users), self.items)


class Ours:
    """A dataset of ours under a protocol and with a model, everything by name."""

    def __init__(self, folder: Path, **settings: Any):
        overrides = {
            "data_path": str(folder.parent), "item_encoder": "id", "embedding_size": 8,
            "topk": [1], "valid_metric": "NDCG@1", "use_gpu": False, **settings,
        }  # fmt: skip
        self.config = MoRecConfig("PixelNet", folder.name, overrides=overrides)
        self.dataset = MultimodalDataset(self.config)
        self.items = [str(token) for token in self.dataset.item_tokens]
        self.users = [str(token) for token in self.dataset.user_tokens]

    @property
    def candidates(self) -> set[str]:
        return {self.items[item] for item in np.flatnonzero(self.dataset.candidates)}

    def histories(self) -> dict[str, History]:
        """User -> all items in time order."""
        histories = self.dataset.histories
        return {
            user: [self.items[item] for item in histories.of(number)]
            for number, user in enumerate(self.users)
            if number
        }

    def batch(self) -> dict[str, Any]:
        """All training rows in one batch."""
        builder = build_adapter(self.config, self.dataset).batches()
        return builder.build(np.arange(len(builder.rows)), 0)

    def rows(self) -> list[tuple[str, History]]:
        """The training rows: a user and a window."""
        batch = self.batch()
        windows = lists(batch["item_seq"].numpy(), self.items)
        return [(self.users[u], w) for u, w in zip(batch["user"].tolist(), windows, strict=True)]

    def predicted(self) -> list[tuple[str, History]]:
        """Every training target: a user, what stands before the target in its row, the target."""
        batch = self.batch()
        found = []
        for row, slot in batch["target"].nonzero().tolist():
            prefix = batch["item_seq"][row, : slot + 1].tolist()
            found.append(
                (self.users[int(batch["user"][row])], [self.items[item] for item in prefix if item])
            )
        return found

    def pairs(self) -> list[tuple[str, str]]:
        """Every training target: a user and an item."""
        return [(user, prefix[-1]) for user, prefix in self.predicted()]

    def phase(self, phase: str, monkeypatch) -> dict[str, tuple[History, str, set[str]]]:
        """User -> what a model reads, the target, and what the evaluator does not rank."""
        scorer = Seen(self.dataset.item_num)
        with ranked_candidates(monkeypatch) as ranked:
            Evaluator(self.config, self.dataset, torch.device("cpu")).evaluate(scorer, phase)
        candidates = torch.from_numpy(self.dataset.candidates)
        found = {}
        for (users, histories), (targets, allowed) in zip(scorer.asked, ranked, strict=True):
            barred = candidates & ~allowed
            read = lists(histories.numpy(), self.items)
            for row, target in enumerate(targets.tolist()):
                out = {self.items[item] for item in barred[row].nonzero()[:, 0].tolist()}
                found[self.users[int(users[row])]] = (read[row], self.items[target], out)
        return found


def convert(source: str, raw: Path, output: Path, **options: Any) -> Path:
    options = Options.of(input=raw, output=output, **options)
    _pipeline.convert_source(source, SOURCES[source].find, options)
    return output


def with_context(rows: list[tuple[str, History]]) -> list[tuple[str, History]]:
    """Without windows of one item: the published loaders make a row of them that predicts nothing
    (of BERT4Rec, an item out of nothing); ours make none where a history is read."""
    return [row for row in rows if len(row[1]) > 1]


def alike(ours: list, theirs: list) -> bool:
    """Equal up to their order, in which training shuffles them anyway."""
    return Counter(map(repr, ours)) == Counter(map(repr, theirs))


# --- PixelRec -------------------------------------------------------------------------------------


def pixelrec_csv(data: Golden, raw: Path, times: list[int]) -> None:
    raw.mkdir()
    columns = zip(words(data, "in/item_id"), words(data, "in/user_id"), times, strict=True)
    lines = ["item_id,user_id,timestamp", *(",".join(map(str, row)) for row in columns)]
    (raw / "Pixel200K.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture(params=["pixelrec", "folder"])
def pixelrec(request, golden, tmp_path):
    """The golden, and a function that shows ours to a model."""
    data = golden("pixelrec/data_pipeline")
    pixelrec_csv(data, tmp_path / "raw", numbers(data, "in/timestamp").tolist())
    named = {"interactions": "Pixel200K.csv"} if request.param == "folder" else {}
    folder = convert(request.param, tmp_path / "raw", tmp_path / "data" / "pixel", **named)
    length = data.sizes["MAX_ITEM_LIST_LENGTH"]

    def ours(**settings):
        return Ours(folder, protocol="pixelrec", MAX_ITEM_LIST_LENGTH=length, **settings)

    return data, ours


def of_users(data: Golden, users: str, items: str, ours: Ours) -> list[tuple[str, History]]:
    owners = [ours.users[user] for user in numbers(data, users)]
    return list(zip(owners, lists(numbers(data, items), ours.items), strict=True))


def test_pixelrec_numbers_and_sequences(pixelrec):
    data, ours = pixelrec
    ours = ours()
    assert ours.items == words(data, "out/item_tokens")
    assert ours.users == words(data, "out/user_tokens")
    assert ours.candidates == set(ours.items[1:])
    assert ours.histories() == dict(of_users(data, "out/user_order", "out/user_seq", ours))


@pytest.mark.parametrize("phase", ["valid", "test"])
def test_pixelrec_evaluation(pixelrec, phase, monkeypatch):
    data, ours = pixelrec
    ours = ours()
    read = of_users(data, "out/user_order", f"out/{phase}_item_seq", ours)
    seen = of_users(data, "out/user_order", f"out/{phase}_history", ours)
    targets = [ours.items[item] for item in numbers(data, f"out/{phase}_target")]
    assert ours.phase(phase, monkeypatch) == {
        user: (history, target, set(barred))
        for (user, history), target, (_, barred) in zip(read, targets, seen, strict=True)
    }


def test_pixelrec_windows(pixelrec):
    """As published with ``window_remainder: drop``. By default ours keeps the oldest items, which
    the published code drops: they make one shorter window more. A window of one item is a row of
    ours only where the user's own vector is all that an item is predicted from."""
    data, ours = pixelrec
    everyone = ours()
    published = of_users(data, "out/window_user", "out/windows", everyone)
    assert alike(ours(**EVERY_PAIR, window_remainder="drop").rows(), published)
    dropped = ours(**EVERY_ITEM, window_remainder="drop").rows()
    assert alike(dropped, with_context(published))

    width = data.sizes["MAX_ITEM_LIST_LENGTH"] + 1
    older = []
    for user, history in everyone.histories().items():
        trained = len(history) - 2
        if trained > width and trained % width > 1:
            older.append((user, history[: trained % width]))
    assert alike(ours(**EVERY_ITEM).rows(), dropped + older)


def test_pixelrec_prefixes(pixelrec):
    """AUGSEQ: all prefixes of every window. Ours predicts the same items after the same ones, out
    of one row per window."""
    data, ours = pixelrec
    ours = ours(**EVERY_PREFIX, window_remainder="drop")
    published = of_users(data, "out/prefix_user", "out/prefixes", ours)
    assert alike(ours.predicted(), published)


def test_pixelrec_pairs(pixelrec):
    data, ours = pixelrec
    ours = ours(**EVERY_PAIR)
    pairs = zip(numbers(data, "out/pair_user"), numbers(data, "out/pair_item"), strict=True)
    assert alike(ours.pairs(), [(ours.users[user], ours.items[item]) for user, item in pairs])


def test_interactions_of_one_moment_keep_the_order_of_the_file(golden, tmp_path):
    """PixelRec sorts by an unstable sort, which may give items of one second any order. Ours is
    stable: here the times are made coarse until many coincide."""
    data = golden("pixelrec/data_pipeline")
    times = numbers(data, "in/timestamp")
    times = (10 * (times - times.min()) // (np.ptp(times) + 1)).tolist()
    pixelrec_csv(data, tmp_path / "raw", times)
    folder = convert("pixelrec", tmp_path / "raw", tmp_path / "data" / "pixel")
    rows = list(zip(words(data, "in/user_id"), times, words(data, "in/item_id"), strict=True))
    assert len({row[:2] for row in rows}) < len(rows)
    expected: dict[str, History] = {}
    for user, _, item in sorted(rows, key=lambda row: row[1]):
        expected.setdefault(user, []).append(item)
    assert Ours(folder, protocol="pixelrec").histories() == expected


# --- IDvs.MoRec, NineRec and ODMT -----------------------------------------------------------------

SYSTEMS = {"idvsmorec": "morec", "ninerec": "ninerec", "odmt": "odmt"}


def write_behaviours(data: Golden, raw: Path) -> None:
    raw.mkdir()
    items = words(data, "in/item_names")
    users, table, rows = {
        "idvsmorec": ("hm_50w_users.tsv", "hm_50w_items.tsv", items),
        "ninerec": ("QB_behaviour.tsv", "QB_item.csv", [f'{i},"标题","a, title"' for i in items]),
        "odmt": ("hm_pick_users_5W.tsv", "hm_pick_items_5W.tsv", [f"{i}\ta title" for i in items]),
    }[data.facts["system"]]
    lines = words(data, "in/behaviour_lines")
    (raw / users).write_text("\n".join(lines) + "\n", encoding="utf-8")
    (raw / table).write_text("\n".join(rows) + "\n", encoding="utf-8")


def behaviours(data: Golden) -> dict[str, History]:
    lines = (line.split("\t") for line in words(data, "in/behaviour_lines"))
    return {user: items.split() for user, items in lines}


@pytest.fixture(params=SYSTEMS)
def users_lines(request, golden, tmp_path):
    """The golden, and a function that shows ours to a model."""
    data = golden(f"{request.param}/data_pipeline")
    source = SYSTEMS[request.param]
    write_behaviours(data, tmp_path / "raw")
    folder = convert(source, tmp_path / "raw", tmp_path / "data" / "published")

    def ours(**settings):
        common = {
            "protocol": "ninerec" if source == "ninerec" else "morec", "window": "last",
            "MAX_ITEM_LIST_LENGTH": data.sizes["max_seq_len"],
            "min_user_inter": data.sizes["min_seq_len"],
        }  # fmt: skip
        return Ours(folder, **{**common, **settings})

    return data, ours


def kept_users(data: Golden) -> list[str]:
    """Users in the order of the published rows."""
    shortest = data.sizes["min_seq_len"]
    return [user for user, items in behaviours(data).items() if len(items) >= shortest]


def kept_items(data: Golden, newest: int) -> list[str]:
    """Names by published number, where the newest so many items of each user are kept: the order
    is that of the item file."""
    kept = {item for user in kept_users(data) for item in behaviours(data)[user][-newest:]}
    return ["", *(item for item in words(data, "in/item_names") if item in kept)]


def check_evaluation(data: Golden, ours: Ours, prefix: str, names: list[str], monkeypatch) -> None:
    for phase in ("valid", "test"):
        sequences = lists(numbers(data, f"out/{prefix}{phase}"), names)
        seen = lists(numbers(data, f"out/{prefix}history_{phase}"), names)
        assert ours.phase(phase, monkeypatch) == {
            user: (sequence[:-1], sequence[-1], set(barred))
            for user, sequence, barred in zip(kept_users(data), sequences, seen, strict=True)
        }


def test_kept_users_and_items(users_lines):
    data, ours = users_lines
    ours = ours()
    names = words(data, "out/item_names_kept")
    assert len(ours.candidates) == int(data.tensor("out/item_num"))
    assert ours.candidates == set(names)
    short = behaviours(data).keys() - set(kept_users(data))
    assert ours.dataset.splits.left_out == len(short)


@pytest.mark.parametrize("window", ["last", "windows"])
def test_training_rows(users_lines, window):
    """One row per user. Truncation leaves no more than one window, however rows are cut."""
    data, ours = users_lines
    names = ["", *words(data, "out/item_names_kept")]
    parts = lists(numbers(data, "out/train"), names)
    published = list(zip(kept_users(data), parts, strict=True))
    assert alike(ours(**EVERY_ITEM, window=window).rows(), with_context(published))
    assert alike(ours(**EVERY_PAIR, window=window).rows(), published)


def test_evaluation_of_the_newest_items(users_lines, monkeypatch):
    data, ours = users_lines
    check_evaluation(data, ours(), "", ["", *words(data, "out/item_names_kept")], monkeypatch)


def test_popularity_of_in_batch_negatives(users_lines):
    """The correction that is taken off the logits. ODMT flattens the popularity by a power and
    divides by the sum anew: a constant, which no softmax over them feels. Items that are only
    targets of evaluation have no popularity and are in no batch."""
    data, ours = users_lines
    if "out/pop_prob" not in data:
        pytest.skip("not published for this system")
    names, shares = words(data, "out/item_names_kept"), numbers(data, "out/pop_prob")[1:]
    published = dict(zip(names, shares.tolist(), strict=True))
    power = data.sizes.get("power", 1.0)
    ours = ours(user_encoder="UserID", objective="in_batch", popularity_correction=power)
    batch = ours.batch()
    trained = [ours.items[item] for item in batch["content"]["items"].tolist()]
    assert set(trained) == {item for item, share in published.items() if share > 0}
    correction = power * batch["log_popularity"].double().numpy()
    gap = correction - np.log([published[item] for item in trained])
    constant = 0 if power == 1 else gap.mean()
    np.testing.assert_allclose(gap, constant, atol=1e-6)


def test_keys_of_images(users_lines):
    """Image databases hold item ``v123`` under 123."""
    data, _ = users_lines
    if "out/image_keys" not in data:
        pytest.skip("not published for this system")
    keys = [str(key) for key in numbers(data, "out/image_keys")]
    stored = SimpleNamespace(kind="lmdb", by_key=True, path=Path("x.lmdb"), names=lambda: keys)
    files = ImageFiles(stored, Path())
    assert [files.of_item(item) for item in words(data, "out/item_names_kept")] == keys


def test_pairs_of_the_table_of_users(users_lines, monkeypatch):
    """DSSM: every training item of a user is a pair. NineRec's keeps the newest L + 2, which are
    the L + 3 of a smaller L of ours."""
    data, ours = users_lines
    if "out/dssm_train_pairs" not in data:
        pytest.skip("not published for this system")
    length = data.sizes["max_seq_len"] - (data.facts["system"] == "ninerec")
    ours = ours(**EVERY_PAIR, MAX_ITEM_LIST_LENGTH=length)
    users, names = kept_users(data), kept_items(data, length + 3)
    if "out/dssm_user_num" in data:
        assert len(users) == int(data.tensor("out/dssm_user_num"))

    def published(phase: str) -> list[tuple[str, str]]:
        pairs = numbers(data, f"out/dssm_{phase}_pairs")
        return [(users[user - 1], names[item]) for user, item in pairs]

    assert alike(ours.pairs(), published("train"))
    for phase in ("valid", "test"):
        found = ours.phase(phase, monkeypatch)
        assert [(user, target) for user, (_, target, _) in found.items()] == published(phase)


# --- NineRec's other loaders ----------------------------------------------------------------------


@pytest.fixture
def ninerec(golden, tmp_path):
    data = golden("ninerec/data_pipeline")
    write_behaviours(data, tmp_path / "raw")
    return data, tmp_path


def test_ninerecs_windows_of_bert4rec(ninerec, monkeypatch):
    """NineRec counts the mask's slot to the window: its L of BERT4Rec is ours plus one. It keeps
    the newest L + 2, which are our L + 3."""
    data, folder = ninerec
    ours = Ours(
        convert("ninerec", folder / "raw", folder / "data" / "published"), protocol="ninerec",
        MAX_ITEM_LIST_LENGTH=data.sizes["max_seq_len"] - 1, window="last",
        min_user_inter=data.sizes["min_seq_len"], user_encoder="BERT4Rec", objective="bpr",
    )  # fmt: skip
    names = ["", *words(data, "out/bert4rec_item_names_kept")]
    parts = lists(numbers(data, "out/bert4rec_train"), names)
    rows = list(zip(kept_users(data), parts, strict=True))
    assert alike(ours.rows(), with_context(rows))
    check_evaluation(data, ours, "bert4rec_", names, monkeypatch)
    # The published catalogue counts the mask, its last item: it is ranked and drawn like one.
    # Ours keeps it apart.
    assert len(ours.candidates) == int(data.tensor("out/bert4rec_item_num")) - 1
    assert ours.candidates == set(names[1:-1])


def test_ninerecs_positions_are_numbers(ninerec):
    """Its second code base reads positions as words and sorts 10 before 2, which scrambles longer
    histories and takes the wrong items as targets. Ours sorts numbers."""
    data, folder = ninerec
    (folder / "raw" / "QB_behaviour.tsv").unlink()
    (folder / "raw" / "bisc").mkdir()
    histories = behaviours(data)
    lines = [
        f"{item},{user},{position}"
        for user, items in histories.items()
        for position, item in enumerate(items)
    ]
    (folder / "raw" / "bisc" / "bisc.inter").write_text(
        "\n".join(["item_id,user_id,timestamp", *lines]) + "\n", encoding="utf-8"
    )
    as_words = {
        user: [items[int(place)] for place in sorted(map(str, range(len(items))))]
        for user, items in histories.items()
    }
    assert as_words != histories or max(map(len, histories.values())) <= 10
    ours = Ours(convert("ninerec", folder / "raw", folder / "data" / "qb"), protocol="ninerec")
    assert ours.histories() == histories
