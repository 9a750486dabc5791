"""Writes the sample dataset: a colour world as atomic files, covers, a tokenizer and its facts."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image

from recbole_morec.convert._output import DERIVED, check_folder, files_below, new_folder, shortened
from recbole_morec.data.atomic import ContentTable, write_content, write_inter
from recbole_morec.errors import DataError
from recbole_morec.randomness import stream
from recbole_morec.sample.covers import draw_cover, encode_jpeg
from recbole_morec.sample.oracles import oracle_figures
from recbole_morec.sample.settings import sample_settings
from recbole_morec.sample.titles import make_title
from recbole_morec.sample.wordpiece import make_tokenizer, save_tokenizer
from recbole_morec.sample.world import CLUSTERS, COLOURS, SHAPES, TOPICS, World, make_world

SEED = 2026
FACTS_FILE = "world.json"

_TOKENIZER_FILES = ("tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json")


def make_sample(
    folder: str | Path,
    seed: int = SEED,
    n_items: int = 1000,
    n_users: int = 3000,
    overwrite: bool = False,
) -> dict:
    """Write the sample dataset into `folder`, whose name is the dataset's name.

    Writes `<name>.inter` (in no particular order), `<name>.content` (a title and a cover per item),
    `images/*.jpg`, `tokenizer/`, `world.json` (how the world was made and what ideal recommenders
    get in it) and `<name>.yaml` (settings that suit it; one that is there already is left alone).
    All is written beside the folder and renamed at the end, so that a failure leaves the old state.
    Equal arguments give equal files, byte for byte (covers: under the same Pillow).

    Args:
        folder: where to write; made if it is not there.
        seed: of the world, the covers, the titles and the order of the rows.
        n_items, n_users: at least 100 and 20.
        overwrite: replace a sample that is in the folder, and nothing else.

    Returns:
        The content of `world.json`.

    Raises:
        DataError: the folder holds something already and `overwrite` is False, it holds anything
            but an earlier sample, or the sizes are too small.
    """
    folder = Path(folder)
    try:
        world = make_world(seed, n_items, n_users)
    except ValueError as error:
        raise DataError(f"Cannot make the sample dataset: {error}.") from error
    _check_room(folder, overwrite)
    name = folder.resolve().name
    with new_folder(folder) as temporary:
        facts = _write(world, name, temporary)
        settings = folder / f"{name}.yaml"
        if settings.is_file():
            shutil.copy2(settings, temporary)
    return facts


def _write(world: World, name: str, folder: Path) -> dict:
    """Write all files of the sample into an empty folder; return what `world.json` says."""
    _write_covers(world, folder / "images")
    titles = [
        make_title(_generator(world.seed, "title", item), int(world.topic[item]))
        for item in range(world.n_items)
    ]
    tokens = [f"i{item}" for item in range(world.n_items)]
    covers = [f"images/{token}.jpg" for token in tokens]
    table = ContentTable(
        fields={"title": "text", "cover": "image"},
        tokens=tokens,
        columns={"title": titles, "cover": covers},
    )
    write_content(folder / f"{name}.content", table)
    write_inter(folder / f"{name}.inter", _shuffled_rows(world))
    save_tokenizer(make_tokenizer(titles), folder / "tokenizer")

    facts = sample_facts(world, mean_colours(folder, covers))
    text = json.dumps(facts, indent=2) + "\n"
    (folder / FACTS_FILE).write_text(text, encoding="utf-8", newline="\n")
    settings = sample_settings(name)
    (folder / f"{name}.yaml").write_text(settings, encoding="utf-8", newline="\n")
    return facts


def sample_facts(world: World, colours: np.ndarray) -> dict:
    """What `world.json` says: seed, sizes, classes, settings and the figures of the oracles.

    Args:
        colours: mean colour of each cover as `mean_colours` gives it.
    """
    counts = np.sort(np.bincount(world.items, minlength=world.n_items))[::-1]
    return {
        "seed": world.seed,
        "items": world.n_items,
        "users": world.n_users,
        "interactions": len(world.items),
        "cold_items": int(world.cold.sum()),
        "cold_targets": int(world.cold[world.targets].sum()),
        "share_of_top_tenth": round(float(counts[: world.n_items // 10].sum() / counts.sum()), 4),
        "colours": list(COLOURS),
        "shapes": list(SHAPES),
        "topics": list(TOPICS),
        "clusters": CLUSTERS,
        "taste": asdict(world.taste),
        "figures": oracle_figures(world, colours),
    }


def mean_colours(folder: Path, covers: list[str]) -> np.ndarray:
    """Mean red, green and blue of each cover file, 0..255, float64 `[n, 3]`."""
    means = np.empty((len(covers), 3))
    for row, cover in enumerate(covers):
        with Image.open(folder / cover) as picture:
            means[row] = np.asarray(picture.convert("RGB"), dtype=np.float64).mean((0, 1))
    return means


def _generator(seed: int, purpose: str, item: int = 0) -> np.random.Generator:
    # A stream per item: a change to how one cover is drawn leaves all others as they were.
    return np.random.Generator(np.random.PCG64(stream(seed, purpose, item)))


def _write_covers(world: World, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for item in range(world.n_items):
        rng = _generator(world.seed, "cover", item)
        picture = draw_cover(rng, int(world.colour[item]), int(world.shape[item]))
        data = encode_jpeg(picture, quality=int(rng.integers(80, 91)))
        (folder / f"i{item}.jpg").write_bytes(data)


def _shuffled_rows(world: World) -> pl.DataFrame:
    """The interactions in random order; equal seconds of one user stay side by side, in order."""
    users = np.repeat(np.arange(world.n_users), np.diff(world.offsets))
    new = np.ones(len(users), dtype=bool)
    new[1:] = (users[1:] != users[:-1]) | (world.times[1:] != world.times[:-1])
    moment = np.cumsum(new) - 1
    place = _generator(world.seed, "rows").permutation(moment[-1] + 1)
    order = np.argsort(place[moment], kind="stable")
    return pl.DataFrame(
        {
            "user": [f"u{user}" for user in users[order]],
            "item": [f"i{item}" for item in world.items[order]],
            "time": world.times[order],
        }
    )


def _check_room(folder: Path, overwrite: bool) -> None:
    """Raise a DataError if the folder holds anything but its yaml or a sample to be replaced."""
    check_folder(folder)
    name = folder.resolve().name
    found = {path.relative_to(folder).as_posix() for path in files_below(folder)}
    found.discard(f"{name}.yaml")
    if not found:
        return
    if not overwrite:
        raise DataError(
            f"{folder} is not empty: it holds {shortened(found)}. Name another folder, or replace "
            "the sample in it with overwrite=True (recbole-morec sample --overwrite)."
        )
    if FACTS_FILE not in found:
        raise DataError(
            f"{folder}: --overwrite replaces only an earlier sample, and this folder has no "
            f"{FACTS_FILE}. It holds {shortened(found)}. Delete it yourself, or name another "
            "--output."
        )
    ours = {f"{name}.inter", f"{name}.content", FACTS_FILE, *_TOKENIZER_FILES}
    foreign = {file for file in found - ours if not re.fullmatch(r"images/i\d+\.jpg", file)}
    foreign = {file for file in foreign if not file.startswith(DERIVED)}
    if foreign:
        raise DataError(
            f"{folder}: --overwrite would delete files that are no part of the sample: "
            f"{shortened(foreign)}. Move them away, or name another --output."
        )
