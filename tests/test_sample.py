"""The sample world: its files are sound, and what its oracles get says that content matters."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from PIL import Image
from transformers import AutoTokenizer

from recbole_morec.data.atomic import read_content
from recbole_morec.data.inter import read_inter
from recbole_morec.errors import DataError
from recbole_morec.sample import make_sample
from recbole_morec.sample.covers import draw_cover
from recbole_morec.sample.oracles import (
    cluster_factor,
    known_weight,
    nothing_read,
    object_factor,
    probe_reading,
    ranks_of_targets,
    topic_factor,
)
from recbole_morec.sample.settings import sample_settings
from recbole_morec.sample.titles import SHARED_WORDS, TOPIC_WORDS, make_title
from recbole_morec.sample.wordpiece import make_tokenizer
from recbole_morec.sample.world import CELLS, COLOURS, LAUNCH, SHAPES, TOPICS, Taste, make_world
from recbole_morec.sample.write import SEED, mean_colours, sample_facts

BUNDLED = Path(__file__).parents[1] / "dataset_atomic" / "pixelrec"
TOKENIZER_FILES = ("tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json")


def histories(folder):
    """Each user's items in the order of watching, as a reader of the files sees it."""
    frame = read_inter(folder / f"{folder.name}.inter")
    assert frame["time"].dtype == pl.Int64
    frame = frame.with_row_index("row").sort("user", "time", "row")
    return dict(frame.group_by("user", maintain_order=True).agg("item").iter_rows())


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample") / "tiny"
    facts = make_sample(folder, seed=5, n_items=120, n_users=200)
    return folder, facts, make_world(5, 120, 200)


# --- the files, on a small world -----------------------------------------------------------------


def test_files_are_named_after_the_folder(small):
    folder, facts, _ = small
    names = {path.name for path in folder.iterdir()}
    assert names == {
        *("tiny.inter", "tiny.content", "tiny.yaml", "images", "tokenizer", "world.json"),
    }
    assert json.loads((folder / "world.json").read_text()) == json.loads(json.dumps(facts))


def test_a_reader_of_the_files_sees_the_order_of_the_world(small):
    folder, _, world = small
    watched = np.split(world.items, world.offsets[1:-1])
    expected = {f"u{user}": [f"i{item}" for item in items] for user, items in enumerate(watched)}
    assert histories(folder) == expected
    times = np.split(world.times, world.offsets[1:-1])
    gaps = np.concatenate([np.diff(own) for own in times])
    assert gaps.min() == 0  # a few ties, which the rows' order decides
    assert (gaps == 0).mean() < 0.03


def test_rows_are_not_sorted_by_user_or_time(small):
    folder, _, _ = small
    frame = read_inter(folder / "tiny.inter")
    assert (frame["user"] == frame["user"].shift(1)).mean() < 0.1
    assert not frame["time"].is_sorted()


def test_every_item_has_a_title_and_a_small_cover(small):
    folder, _, _ = small
    table = read_content(folder / "tiny.content")
    assert table.fields == {"title": "text", "cover": "image"}
    assert sorted(table.tokens) == sorted(f"i{item}" for item in range(120))
    assert all(table.columns["title"])
    sizes = set()
    for token, cover in zip(table.tokens, table.columns["cover"], strict=True):
        assert cover == f"images/{token}.jpg"
        with Image.open(folder / cover) as picture:
            assert (picture.format, picture.mode) == ("JPEG", "RGB")
            sizes.add(picture.size)
    assert min(min(size) for size in sizes) >= 64
    assert {np.sign(width - height) for width, height in sizes} == {-1, 0, 1}


def test_the_tokenizer_opens_and_knows_the_titles(small):
    folder, _, _ = small
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    assert tokenizer.convert_ids_to_tokens(range(5)) == [
        "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]",
    ]  # fmt: skip
    titles = read_content(folder / "tiny.content").columns["title"]
    encoded = tokenizer(titles, padding=True)["input_ids"]
    assert {row[0] for row in encoded} == {tokenizer.cls_token_id}
    assert not any(tokenizer.unk_token_id in row for row in encoded)


def test_same_seed_same_bytes_other_seed_other_world(small, tmp_path):
    folder, _, _ = small
    make_sample(tmp_path / "tiny", seed=5, n_items=120, n_users=200)
    assert contents(tmp_path / "tiny") == contents(folder)
    make_sample(tmp_path / "tiny", seed=6, n_items=120, n_users=200, overwrite=True)
    other = contents(tmp_path / "tiny")
    assert other["tiny.inter"] != contents(folder)["tiny.inter"]
    assert other["images/i0.jpg"] != contents(folder)["images/i0.jpg"]


def test_a_folder_with_something_in_it_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(DataError, match=r"not empty.*mine\.txt.*--overwrite"):
        make_sample(tmp_path, n_items=120, n_users=200)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_overwrite_replaces_a_sample_and_nothing_else(tmp_path):
    mine = tmp_path / "mine"
    for file in ("mine.inter", "mine.content", "images/i1.jpg"):
        (mine / file).parent.mkdir(parents=True, exist_ok=True)
        (mine / file).write_text("precious")
    with pytest.raises(DataError, match=r"mine: --overwrite .* no world\.json.*another --output"):
        make_sample(mine, n_items=100, n_users=20, overwrite=True)
    derived = tmp_path / "derived" / "prepared" / "notes.txt"
    derived.parent.mkdir(parents=True)
    derived.write_text("precious")  # in a folder that is no sample
    with pytest.raises(DataError, match=r"is not empty: it holds prepared/notes\.txt"):
        make_sample(tmp_path / "derived", n_items=100, n_users=20)
    tiny = tmp_path / "tiny"
    make_sample(tiny, n_items=100, n_users=20)
    (tiny / "prepared" / "texts-0123").mkdir(parents=True)
    (tiny / "prepared" / "texts-0123" / "ids.npy").write_text("derived")
    make_sample(tiny, n_items=100, n_users=20, overwrite=True)
    assert not (tiny / "prepared").exists()
    (tiny / "minilm.npy").write_text("precious")
    with pytest.raises(DataError, match=r"no part of the sample: minilm\.npy\. Move"):
        make_sample(tiny, n_items=100, n_users=20, overwrite=True)
    assert {*contents(mine).values(), contents(tiny)["minilm.npy"]} == {b"precious"}


def test_a_failed_sample_leaves_the_old_state(tmp_path, monkeypatch):
    make_sample(tmp_path / "tiny", n_items=100, n_users=20)
    before = contents(tmp_path)

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr("recbole_morec.sample.write.write_inter", fail)
    for name, overwrite in (("tiny", True), ("fresh", False)):
        with pytest.raises(OSError, match="disk full"):
            make_sample(tmp_path / name, seed=1, n_items=100, n_users=20, overwrite=overwrite)
    assert contents(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "a").write_text("precious")
    for folder in (tmp_path / "a", tmp_path / "a" / "b" / "c"):
        with pytest.raises(DataError, match=r"/a is a file; --output must name a folder"):
            make_sample(folder, n_items=100, n_users=20)


def test_the_folder_that_a_link_names_is_replaced(tmp_path):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "tiny")
    make_sample(tmp_path / "link", n_items=100, n_users=20)
    make_sample(tmp_path / "link", n_items=100, n_users=20, overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "tiny" / "tiny.inter").is_file()


def test_a_sample_made_elsewhere_has_its_settings(small):
    folder, _, _ = small
    settings = yaml.safe_load((folder / "tiny.yaml").read_text())
    assert settings["objective"] == "in_batch"
    assert "--dataset=tiny\n" in (folder / "tiny.yaml").read_text()


def test_the_dataset_yaml_is_kept_and_a_larger_sample_leaves_nothing_behind(tmp_path):
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "tiny.yaml").write_text("image_size: 64\n")
    make_sample(folder, n_items=130, n_users=30)
    make_sample(folder, n_items=100, n_users=30, overwrite=True)
    assert (folder / "tiny.yaml").read_text() == "image_size: 64\n"
    assert len(list((folder / "images").iterdir())) == 100


def test_too_small_a_world_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(DataError, match="at least 100 items and 20 users, got 50 and 200"):
        make_sample(tmp_path / "tiny", n_items=50, n_users=200)
    assert not (tmp_path / "tiny").exists()


# --- the world -----------------------------------------------------------------------------------


def test_new_items_come_last_and_nobody_sees_an_item_twice_or_too_early(small):
    _, _, world = small
    last = np.zeros(len(world.items), dtype=bool)
    last[world.offsets[1:] - 1] = True
    assert not world.cold[world.items[~last]].any()
    assert world.cold[world.targets].sum() == round(Taste().cold_users * 200)
    assert ((world.times >= LAUNCH) == world.cold[world.items]).all()
    assert (world.times >= world.released[world.items]).all()
    for items in np.split(world.items, world.offsets[1:-1]):
        assert len(set(items)) == len(items)
        assert 5 <= len(items) <= 40


def test_content_and_clusters_are_independent(small):
    world = make_world(5, 1000, 20)
    for one, other in (
        (world.cell, world.topic),
        (world.cell, world.cluster),
        (world.topic, world.cluster),
    ):
        table = np.zeros((one.max() + 1, other.max() + 1))
        np.add.at(table, (one, other), 1)
        expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
        freedom = (table.shape[0] - 1) * (table.shape[1] - 1)
        assert ((table - expected) ** 2 / expected).sum() < freedom + 4 * np.sqrt(2 * freedom)


def test_taste_pulls_towards_the_state():
    """With odds of one there is no pull; with the sample's there is."""
    indifferent = Taste(both=1, colour=1, shape=1, topic=1, cluster=1)
    for taste, low, high in ((indifferent, 0.0, 0.06), (Taste(), 0.5, 1.0)):
        world = make_world(5, 1000, 200, taste)
        assert low <= (world.cell[world.items] == world.objects).mean() <= high


def test_titles_name_their_topic():
    names = list(TOPIC_WORDS)
    assert tuple(names) == TOPICS
    words = {topic: set(text.lower().split()) for topic, text in TOPIC_WORDS.items()}
    rng = np.random.default_rng(0)
    named = 0
    for topic in np.arange(450) % len(names):
        found = set(make_title(rng, int(topic)).lower().replace("!", "").split())
        assert not any(found & words[name] for name in names if name != names[topic])
        shared = found & SHARED_WORDS.keys()
        assert all(names[topic] in SHARED_WORDS[word] for word in shared)
        named += bool(found & words[names[topic]])
    assert 0.85 < named / 450 < 1.0  # the others hint by a shared word only


def test_tokenizer_counts_words():
    tokenizer = make_tokenizer(["a piano", "a piano!", "a Piano, ünsung"], fewest=3)
    assert tokenizer.encode("PIANO").tokens == ["[CLS]", "piano", "[SEP]"]
    assert tokenizer.encode("uns").tokens == ["[CLS]", "u", "##n", "##s", "[SEP]"]


def test_the_mean_colour_of_a_cover_does_not_depend_on_its_object():
    means = [
        [draw_cover(np.random.default_rng(at), colour, at % len(SHAPES)).mean((0, 1)) / 255
         for at in range(30)]
        for colour in range(len(COLOURS))
    ]  # fmt: skip
    by_colour = np.mean(means, axis=1)
    assert by_colour.std(0).max() < 0.01  # the object itself would move it by 0.05 to 0.1


# --- oracles -------------------------------------------------------------------------------------


def test_the_blind_learn_nothing_from_the_history(small):
    _, _, world = small
    likelihood = topic_factor(world, nothing_read(world, len(TOPICS))).likelihood
    np.testing.assert_allclose(likelihood, likelihood[:1].repeat(len(TOPICS), 0))
    seeing = topic_factor(world).likelihood
    warm = ~world.cold
    np.testing.assert_allclose(  # but they know how popular each warm item is
        world.topic_share @ likelihood[:, warm], world.topic_share @ seeing[:, warm]
    )


def test_nobody_knows_cluster_or_popularity_of_a_cold_item(small):
    _, _, world = small
    assert np.ptp(cluster_factor(world).likelihood[:, world.cold], axis=1).max() < 1e-12
    assert np.ptp(known_weight(world)[world.cold]) == 0


def test_a_probe_with_the_right_features_reads_right(small):
    """The probe itself works: the figure is low because mean colours say nothing."""
    _, _, world = small
    right = probe_reading(world, np.eye(CELLS)[world.cell])
    assert (right.argmax(1) == world.cell).all()
    factor = object_factor(world, np.eye(CELLS)[world.cell])
    np.testing.assert_allclose(factor.likelihood, object_factor(world).likelihood)


def test_ranks_count_what_scores_higher(small):
    _, _, world = small
    scores = np.tile(-np.arange(120.0), (200, 1))
    assert (ranks_of_targets(world, scores) == world.targets + 1).all()
    assert (ranks_of_targets(world, np.zeros((200, 120))) == world.targets + 1).all()


# --- the bundled sample --------------------------------------------------------------------------

bundled = pytest.mark.skipif(not BUNDLED.exists(), reason="the bundled sample is not here")


@pytest.fixture(scope="module")
def pixelrec():
    written = json.loads((BUNDLED / "world.json").read_text(encoding="utf-8"))
    return written, make_world(written["seed"], written["items"], written["users"])


@bundled
def test_the_bundled_settings_are_those_of_the_code():
    text = (BUNDLED / "pixelrec.yaml").read_text(encoding="utf-8")
    assert sample_settings("pixelrec") == text


@bundled
def test_the_bundled_files_hold_the_bundled_world(pixelrec):
    written, world = pixelrec
    assert written["seed"] == SEED
    watched = np.split(world.items, world.offsets[1:-1])
    expected = {f"u{user}": [f"i{item}" for item in items] for user, items in enumerate(watched)}
    assert histories(BUNDLED) == expected
    table = read_content(BUNDLED / "pixelrec.content")
    assert table.tokens == [f"i{item}" for item in range(1000)]
    assert sum(path.stat().st_size for path in BUNDLED.rglob("*") if path.is_file()) < 8e6
    for name in TOKENIZER_FILES:
        assert (BUNDLED / name).is_file()


@bundled
def test_the_bundled_facts_hold(pixelrec):
    written, world = pixelrec
    covers = [f"images/i{item}.jpg" for item in range(world.n_items)]
    facts = json.loads(json.dumps(sample_facts(world, mean_colours(BUNDLED, covers))))
    figures = facts.pop("figures")
    assert facts == {name: value for name, value in written.items() if name != "figures"}
    for name, groups in figures.items():
        for group, values in groups.items():
            assert values == pytest.approx(written["figures"][name][group], abs=0.005), name

    recall = {name: {group: values["recall@10"] for group, values in groups.items()}
              for name, groups in figures.items()}  # fmt: skip
    ndcg = {name: {group: values["ndcg@10"] for group, values in groups.items()}
            for name, groups in figures.items()}  # fmt: skip
    assert facts["cold_targets"] >= 350
    assert 0.4 <= facts["share_of_top_tenth"] <= 0.5
    assert 0.02 <= recall["popularity"]["overall"] <= 0.10
    assert recall["full"]["cold"] >= 0.30
    assert recall["title_blind"]["cold"] >= 0.15
    for blind in ("title_blind", "picture_blind"):
        assert recall[blind]["overall"] < 0.93 * recall["full"]["overall"]
        assert ndcg[blind]["overall"] < 0.9 * ndcg["full"]["overall"]
        assert ndcg[blind]["cold"] < 0.9 * ndcg["full"]["cold"]
    for group in ("overall", "cold"):
        assert recall["probe"][group] < 0.5 * recall["title_blind"][group]
        assert recall["probe"][group] < 0.5 * recall["full"][group]
    assert recall["full"]["overall"] < recall["known_state"]["overall"]
