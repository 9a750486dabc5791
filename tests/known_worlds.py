"""Worlds in which one thing alone decides what comes next, and what can be known in them.

    image_only   the colour of the picture; titles have words, which say nothing
    text_only    the word of the title; pictures have colours, which say nothing
    fusion_only  colour and word together; either alone says nothing
    id_only      which item it is; all pictures and all titles are equal
    order_only   the order of the same few items, each of which has its own colour and word
    id_taste     who the user is: one who likes a group of items, all of which look equal
    image_taste  who the user is: one who likes a colour; titles have words, which say nothing

In the first four, pairs of items that belong together follow each other at random, and a model
reads one item. In the first three a user has had every item that trains; these are barred, so that
ranks are among cold items alone. The item read before the target is cold too, and what came before
tells nothing of it. So ids know nothing, however well they know the warm items.

The last two are for models that know users, and not what these read last: elsewhere they are at
chance, whatever they see of items. In ``image_taste`` every item trains with one user alone, so
that ids know nothing of anyone else's.

To those who do not see what decides, the target is a uniform draw from the user's candidates, and
the draws of different users are independent. Hence a level of chance that is computed, and an
interval around it that is binomial.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image
from scipy.stats import binom

from recbole_morec.data.atomic import ContentTable, write_content
from recbole_morec.data.inter import write_inter
from recbole_morec.sample.wordpiece import make_tokenizer, save_tokenizer

COLOURS = (
    *((220, 30, 30), (30, 190, 40), (40, 70, 230), (235, 220, 40), (30, 210, 220), (210, 40, 210)),
    *((245, 245, 245), (15, 15, 15), (125, 125, 125), (250, 140, 30), (90, 50, 20)),
)
WORDS = (
    *("alder", "birch", "cedar", "durian", "elm", "fir", "gum", "hazel", "ivy", "jute", "kale"),
)
PIXELS = 32
USERS = 400
WARM, COLD = 32, 128  # items of the worlds of kinds


@dataclass(frozen=True)
class World:
    """Items, histories, and what could come next.

    Args:
        name: of the world and of its dataset.
        k: targets are looked for among the best k.
        reads: L, items of a history that a model reads.
        colour, word: what picture and title of each item show, ``[N]``.
        histories: items of every user in time order, ``[U, T]``; the last one is the test target.
        possible: items that could be the target for those who see what decides, ``[U, N]`` bool.
            If they are more than ``k``, all are equally likely.
    """

    name: str
    k: int
    reads: int
    colour: np.ndarray
    word: np.ndarray
    histories: np.ndarray
    possible: np.ndarray

    @cached_property
    def tokens(self) -> list[str]:
        """Names of the items, which tell nothing."""
        rng = np.random.default_rng(len(self.colour))
        return [f"i{number}" for number in rng.permutation(len(self.colour))]

    @cached_property
    def candidates(self) -> np.ndarray:
        """What a target is ranked against: items that the user has not had, ``[U, N]`` bool."""
        found = np.ones_like(self.possible)
        np.put_along_axis(found, self.histories[:, :-1], False, axis=1)
        return found

    @cached_property
    def oracle(self) -> float:
        """Expected Recall@k of who sees what decides: puts what is possible first."""
        return self._recall(self.possible)

    @cached_property
    def chance(self) -> float:
        """Expected Recall@k of who does not: to them every candidate is as likely."""
        return self._recall(np.ones_like(self.possible))

    @property
    def chance_interval(self) -> tuple[float, float]:
        """Where Recall@k of such a one lies with a probability of (at least) 99 %."""
        users = len(self.histories)
        low, high = binom.interval(0.99, users, self.chance)
        return float(low) / users, float(high) / users

    def _recall(self, first: np.ndarray) -> float:
        """Expected Recall@k, over all users, of who puts some candidates first in random order."""
        count = (first & self.candidates).sum(axis=1)
        return float((np.minimum(self.k, count) / count).mean())


# --- the worlds -----------------------------------------------------------------------------------


def image_only(users: int = USERS, seed: int = 0) -> World:
    """Items of one of four colours go together."""
    return _kinds("image_only", users, seed, 4, lambda colour, word: (colour, word))


def text_only(users: int = USERS, seed: int = 0) -> World:
    """Items of one of four words go together."""
    return _kinds("text_only", users, seed, 4, lambda colour, word: (word, colour))


def fusion_only(users: int = USERS, seed: int = 0) -> World:
    """Two colours and two words: the first colour with the first word goes with the second colour
    with the second word, and the other two mixtures go with each other.

    A sum of something of the colour and something of the word cannot tell the two kinds apart: if
    it puts one of the mixtures of a kind first, it puts the other one last.

    Every second user trains on pairs of one mixture. Without them colour and word pay in nothing
    but the finished rule, and training stays on a plateau for long.
    """

    def parity(colour: np.ndarray, word: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return (colour + word) % 2, colour

    return _kinds("fusion_only", users, seed, 2, parity, easy_pairs=True)


def id_only(users: int = USERS, seed: int = 0, items: int = 120, seen: int = 8) -> World:
    """Items are partners two by two. A user has had some pairs, and then half of another one."""
    rng = np.random.default_rng(seed)
    pairs = rng.permutation(items).reshape(-1, 2)
    partner = np.empty(items, dtype=np.int64)
    partner[pairs] = pairs[:, ::-1]
    histories = []
    for _ in range(users):
        chosen = pairs[rng.permutation(len(pairs))[: seen + 1]]
        histories.append(rng.permuted(chosen, axis=1).ravel())
    histories = np.array(histories)
    return World(
        name="id_only",
        k=1,
        reads=1,
        colour=np.zeros(items, dtype=np.int64),
        word=np.zeros(items, dtype=np.int64),
        histories=histories,
        possible=partner[histories[:, -2], None] == np.arange(items),
    )


def order_only(users: int = USERS, seed: int = 0, cues: int = 5) -> World:
    """Everyone gets the same cues; the one that comes first decides the answer.

    A user has the cues, a mark and the answer; two marks, so that this makes two windows; then the
    cues in another order, a mark and the answer to that. The mark keeps the second half of what
    trains the same for all users; the first half tells only which answer is not the second one.

    Every second user gets one cue over and over at first. Without them the cues pay in nothing but
    the finished rule, and training stays on a plateau for long.
    """
    rng = np.random.default_rng(seed)
    mark, answers = cues, cues + 1 + rng.permutation(cues)
    histories = []
    for user in range(users):
        early, late = rng.permutation(cues), rng.permutation(cues)
        while late[0] == early[0]:
            late = rng.permutation(cues)
        if user % 2:
            early[:] = early[0]
        first_half = [*early, mark, answers[early[0]]]
        histories.append([*first_half, mark, mark, *late, mark, answers[late[0]]])
    histories = np.array(histories)
    items = np.arange(2 * cues + 1)
    return World(
        name="order_only",
        k=1,
        reads=cues + 1,
        colour=items,
        word=items,
        histories=histories,
        possible=answers[histories[:, -2 - cues], None] == items,
    )


def id_taste(users: int = USERS, seed: int = 0, groups: int = 10, size: int = 40) -> World:
    """Items fall into groups, and a user likes one: has had three quarters of it, and gets one more
    of it.

    Groups are many enough that users with one order for all hit or miss as if each drew alone.
    """
    rng = np.random.default_rng(seed)
    members = rng.permutation(groups * size).reshape(groups, size)
    had = 3 * size // 4
    liked = np.arange(users) % groups
    histories = np.array([rng.permutation(members[group])[: had + 1] for group in liked])
    possible = np.zeros((users, groups * size), dtype=bool)
    np.put_along_axis(possible, members[liked], True, axis=1)
    return World(
        name="id_taste",
        k=size - had,
        reads=had - 1,
        colour=np.zeros(groups * size, dtype=np.int64),
        word=np.zeros(groups * size, dtype=np.int64),
        histories=histories,
        possible=possible,
    )


def image_taste(users: int = USERS, seed: int = 0, colours: int = 4) -> World:
    """A user likes a colour: has two items of it that nobody else trains on, then gets two that
    train somebody else.

    Items that users share would make groups of users known by ids. Users of one group then rank
    what they have not had alike, and their hits are no independent draws.
    """
    rng = np.random.default_rng(seed)
    colour, word = np.divmod(np.arange(2 * users) % colours**2, colours)
    histories = []
    for liked in range(colours):
        alike = np.flatnonzero(colour == liked)
        for own in rng.permutation(alike).reshape(-1, 2):
            others = rng.choice(np.setdiff1d(alike, own), 2, replace=False)
            histories.append([*own, *others])
    histories = np.array(histories)
    return World(
        name="image_taste",
        k=2 * users // colours - 3,
        reads=2,
        colour=colour,
        word=word,
        histories=histories,
        possible=colour[histories[:, -1], None] == colour,
    )


WORLDS: dict[str, Callable[..., World]] = {
    maker.__name__: maker
    for maker in (
        image_only, text_only, fusion_only, id_only, order_only, id_taste, image_taste,
    )
}  # fmt: skip


def _kinds(
    name: str,
    users: int,
    seed: int,
    classes: int,
    decide: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
    easy_pairs: bool = False,
) -> World:
    """A world of pairs of one kind, the last of which is a pair of cold items.

    There are equally many items of every colour with every word, among the warm ones as among the
    cold. ``k`` has room for all cold items of a kind but the one that was read.

    Args:
        classes: number of colours and of words.
        decide: colour and word -> the kind, and the rest that is needed to tell colour and word.
        easy_pairs: every second user trains on pairs of one colour and one word.
    """
    rng = np.random.default_rng(seed)
    colour, word = np.divmod(np.arange(WARM + COLD) % classes**2, classes)
    kind, rest = decide(colour, word)
    warm = np.arange(WARM + COLD) < WARM
    cold_items = np.flatnonzero(~warm)
    histories = []
    for user in range(users):
        alike = classes * colour + word if easy_pairs and user % 2 else kind
        groups = [np.flatnonzero(warm & (alike == c)) for c in np.unique(alike)]
        pairs = np.concatenate([rng.permutation(group).reshape(-1, 2) for group in groups])
        read, any_other = rng.choice(cold_items, 2, replace=False)
        # The rest is that of any other item: who sees no more of the target than the rest, or than
        # the colour or word of a mixture, sees nothing.
        fits = (kind == kind[read]) & (rest == rest[any_other]) & ~warm
        fits[read] = False
        target = rng.choice(np.flatnonzero(fits))
        histories.append([*rng.permutation(pairs).ravel(), read, target])
    histories = np.array(histories)
    return World(
        name=name,
        k=COLD // len(np.unique(kind)) - 1,
        reads=1,
        colour=colour,
        word=word,
        histories=histories,
        possible=kind[histories[:, -2], None] == kind,
    )


# --- on disk --------------------------------------------------------------------------------------


def write(world: World, data_path: Path) -> Path:
    """Write the dataset folder of a world below ``data_path`` and return it.

    Pictures are noisy squares of their colour (without noise where all items have one colour). What
    else is stored of an item: ``colour.npy`` and ``word.npy``, noisy vectors of one of the two
    (likewise), and ``codes.npy`` of both.
    """
    folder = data_path / world.name
    (folder / "images").mkdir(parents=True)
    noise = np.random.default_rng(0) if len(np.unique(world.colour)) > 1 else None
    for token, colour in zip(world.tokens, world.colour, strict=True):
        picture = _picture(COLOURS[colour], noise)
        Image.fromarray(picture).save(folder / "images" / f"{token}.png")
    titles = [f"the {WORDS[word]} one" for word in world.word]
    table = ContentTable(
        fields={"title": "text", "cover": "image"},
        tokens=world.tokens,
        columns={"title": titles, "cover": [f"images/{token}.png" for token in world.tokens]},
    )
    write_content(folder / f"{world.name}.content", table)
    save_tokenizer(make_tokenizer(titles, fewest=1), folder / "tokenizer")
    stored = {
        "colour": _vectors(world.colour),
        "word": _vectors(world.word),
        "codes": np.stack([world.colour, world.word], axis=1),
    }
    for name, rows in stored.items():
        np.save(folder / f"{name}.npy", rows)
        (folder / f"{name}.tokens.txt").write_text("\n".join(world.tokens) + "\n")
    users, length = world.histories.shape
    rows = {
        "user": [f"u{user}" for user in range(users) for _ in range(length)],
        "item": [world.tokens[item] for item in world.histories.ravel()],
        "time": [1_600_000_000 + 10 * t for _ in range(users) for t in range(length)],
    }
    write_inter(folder / f"{world.name}.inter", pl.DataFrame(rows))
    (folder / f"{world.name}.yaml").write_text(
        f"protocol: pixelrec\nMAX_ITEM_LIST_LENGTH: {world.reads}\n"
        f"metrics: [Recall]\ntopk: [{world.k}]\nvalid_metric: Recall@{world.k}\n"
        f"multimodal:\n  image_size: {PIXELS}\n  max_text_length: 8\n",
        encoding="utf-8",
    )
    return folder


def _picture(colour: tuple[int, int, int], rng: np.random.Generator | None) -> np.ndarray:
    """uint8 ``[PIXELS, PIXELS, 3]``."""
    picture = np.broadcast_to(np.array(colour, dtype=np.float64), (PIXELS, PIXELS, 3))
    if rng is not None:
        picture = picture + rng.normal(0, 5, 3) + rng.normal(0, 10, picture.shape)
    return np.clip(picture, 0, 255).round().astype(np.uint8)


def _vectors(classes: np.ndarray, size: int = 16) -> np.ndarray:
    """float32 ``[N, size]``: a direction for each class, and noise where there are several."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(classes.max() + 1, size))
    noise = 0.1 * rng.normal(size=(len(classes), size)) if len(np.unique(classes)) > 1 else 0.0
    return (directions[classes] + noise).astype(np.float32)
