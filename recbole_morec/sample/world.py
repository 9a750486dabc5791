"""The colour world: who likes what, and what they watched in which order.

Every item has a cover that shows one object (a colour and a shape), a title about one topic, a
hidden cluster that no content shows, and a popularity weight. Every user has a few favourite
objects (colour and shape together), a few topics and one cluster. The current object and the
current topic are a state that drifts: it stays from one interaction to the next with
`stay_object` and `stay_topic`, and otherwise jumps to another favourite of the user. The next
item is drawn with odds

    weight(item) * object_odds(state, item) * topic_odds(state, item) * cluster_odds(user, item)

among the items that are out and that the user has not had. New ("cold") items come out after
everything else has happened: some users pay one last visit then and take a new item. So cold
items occur as a user's last interaction only, and what they are can be known from content alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
SHAPES = ("disc", "ring", "triangle", "cross", "bars")
TOPICS = ("music", "cooking", "travel", "games", "animals", "sport", "science", "cars", "garden")
CLUSTERS = 10
CELLS = len(COLOURS) * len(SHAPES)  # one cell per (colour, shape)

LAUNCH = 1_672_531_200  # 2023-01-01 00:00 UTC, when the new items are out
DAY = 86_400


@dataclass(frozen=True)
class Taste:
    """How strongly each part of the world pulls; odds are relative to an item that matches nothing.

    Attributes:
        both, colour, shape: odds of an item whose object matches in both, in colour only, in
            shape only.
        topic, cluster: odds of an item of the current topic, of the user's cluster.
        stay_object, stay_topic: probability that the state stays for the next interaction.
        liked_objects, liked_topics: fewest and most favourites of a user.
        zipf: exponent of the popularity weights, `(rank + zipf_shift) ** -zipf`.
        object_zipf, topic_zipf: the same for how many users favour an object or a topic.
        cold_items: share of the items that come out last.
        cold_users: share of the users whose last interaction is with a cold item.
    """

    both: float = 2500.0
    colour: float = 10.0
    shape: float = 5.0
    topic: float = 50.0
    cluster: float = 2.5
    stay_object: float = 0.94
    stay_topic: float = 0.88
    liked_objects: tuple[int, int] = (2, 3)
    liked_topics: tuple[int, int] = (3, 4)
    zipf: float = 0.4
    zipf_shift: float = 15.0
    object_zipf: float = 1.7
    topic_zipf: float = 0.5
    cold_items: float = 0.11
    cold_users: float = 0.16


@dataclass(frozen=True)
class World:
    """Items, users and interactions. Items and users are numbered from 0.

    Attributes:
        colour, shape, topic, cluster: class of each item, int64 `[n_items]`.
        weight: popularity weight, float64 `[n_items]`.
        cold: True for items that come out at the launch, bool `[n_items]`.
        released: unix seconds, int64 `[n_items]`.
        offsets: int64 `[n_users + 1]`; user `u` owns rows `offsets[u]:offsets[u + 1]`.
        items, times: item and unix seconds of each row, int64 `[rows]`, in the order of watching.
        objects, topics: the user's true state (cell, topic) when the row was drawn, int64 `[rows]`.
        user_cluster: int64 `[n_users]`.
        object_share, topic_share: how favoured each cell and topic is, float64, sum 1.
    """

    seed: int
    taste: Taste
    colour: np.ndarray
    shape: np.ndarray
    topic: np.ndarray
    cluster: np.ndarray
    weight: np.ndarray
    cold: np.ndarray
    released: np.ndarray
    offsets: np.ndarray
    items: np.ndarray
    times: np.ndarray
    objects: np.ndarray
    topics: np.ndarray
    user_cluster: np.ndarray
    object_share: np.ndarray = field(repr=False)
    topic_share: np.ndarray = field(repr=False)

    @property
    def n_items(self) -> int:
        return len(self.weight)

    @property
    def n_users(self) -> int:
        return len(self.offsets) - 1

    @property
    def cell(self) -> np.ndarray:
        """The (colour, shape) class of each item as one number, int64 `[n_items]`."""
        return self.colour * len(SHAPES) + self.shape

    @property
    def targets(self) -> np.ndarray:
        """The test target of each user: the last item, int64 `[n_users]`."""
        return self.items[self.offsets[1:] - 1]


def object_odds(taste: Taste) -> np.ndarray:
    """Odds of an item's cell (column) under the state's cell (row), float64 `[CELLS, CELLS]`."""
    colour, shape = np.divmod(np.arange(CELLS), len(SHAPES))
    same_colour = colour[:, None] == colour[None]
    same_shape = shape[:, None] == shape[None]
    odds = np.where(same_colour, taste.colour, 1.0) * np.where(same_shape, taste.shape, 1.0)
    np.fill_diagonal(odds, taste.both)
    return odds


def match_odds(classes: int, odds: float) -> np.ndarray:
    """`odds` on the diagonal and 1 elsewhere, float64 `[classes, classes]`."""
    return np.where(np.eye(classes, dtype=bool), odds, 1.0)


def make_world(seed: int, n_items: int, n_users: int, taste: Taste | None = None) -> World:
    """Draw a world; a function of its arguments alone.

    Raises:
        ValueError: fewer than 100 items (a user may have 40) or fewer than 20 users.
    """
    if n_items < 100 or n_users < 20:
        raise ValueError(
            f"the sample world needs at least 100 items and 20 users, got {n_items} and {n_users}"
        )
    taste = taste or Taste()
    rng = np.random.Generator(np.random.PCG64(seed))
    cell = _balanced(rng, n_items, CELLS)
    colour, shape = np.divmod(cell, len(SHAPES))
    topic = _balanced(rng, n_items, len(TOPICS))
    cluster = _balanced(rng, n_items, CLUSTERS)
    cold = _cold_items(rng, cell, taste.cold_items)
    weight = np.empty(n_items)
    for group in (cold, ~cold):  # both groups get the whole curve, from hits to the long tail
        ranks = rng.permutation(group.sum()) * (n_items / group.sum())
        weight[group] = _zipf(ranks, taste.zipf, taste.zipf_shift)

    object_share = _zipf(rng.permutation(CELLS), taste.object_zipf, 3.0)
    topic_share = _zipf(rng.permutation(len(TOPICS)), taste.topic_zipf, 1.0)
    object_share, topic_share = object_share / object_share.sum(), topic_share / topic_share.sum()
    length = np.clip(5 + rng.lognormal(1.55, 0.9, n_users), 5, 40).astype(np.int64)
    visits_launch = np.zeros(n_users, dtype=bool)
    visits_launch[rng.permutation(n_users)[: round(taste.cold_users * n_users)]] = True
    user_cluster = rng.integers(CLUSTERS, size=n_users)

    objects = _drift(rng, length, object_share, taste.stay_object, favourites=taste.liked_objects)
    topics = _drift(rng, length, topic_share, taste.stay_topic, favourites=taste.liked_topics)
    items = _draw_items(
        rng,
        length,
        warm_weight=np.where(cold, 0.0, weight),
        cold_weight=np.where(cold, weight, 0.0),
        visits_launch=visits_launch,
        by_object=object_odds(taste)[:, cell],
        objects=objects,
        by_topic=match_odds(len(TOPICS), taste.topic)[:, topic],
        topics=topics,
        by_cluster=match_odds(CLUSTERS, taste.cluster)[user_cluster][:, cluster],
    )
    times = _draw_times(rng, length, visits_launch, items.shape[1])

    owned = np.arange(items.shape[1])[None] < length[:, None]
    released = np.where(
        cold,
        LAUNCH - rng.integers(0, DAY, n_items),
        times[owned].min() - rng.integers(1, 700 * DAY, n_items),
    )
    return World(
        seed=seed,
        taste=taste,
        colour=colour,
        shape=shape,
        topic=topic,
        cluster=cluster,
        weight=weight,
        cold=cold,
        released=released,
        offsets=np.concatenate([[0], np.cumsum(length)]),
        items=items[owned],
        times=times[owned],
        objects=objects[owned],
        topics=topics[owned],
        user_cluster=user_cluster,
        object_share=object_share,
        topic_share=topic_share,
    )


def _balanced(rng: np.random.Generator, n: int, classes: int) -> np.ndarray:
    """`n` class labels in random order, each class equally often (give or take one)."""
    return rng.permutation(np.arange(n) % classes)


def _zipf(ranks: np.ndarray, exponent: float, shift: float) -> np.ndarray:
    return (ranks + shift + 1.0) ** -exponent


def _cold_items(rng: np.random.Generator, cell: np.ndarray, share: float) -> np.ndarray:
    """Choose cold items evenly over the cells, bool `[n_items]`."""
    by_cell = np.lexsort((rng.random(len(cell)), cell))
    count = round(share * len(cell))
    cold = np.zeros(len(cell), dtype=bool)
    cold[by_cell[((np.arange(count) + 0.5) * len(cell) / count).astype(np.int64)]] = True
    return cold


def _drift(
    rng: np.random.Generator,
    length: np.ndarray,
    share: np.ndarray,
    stay: float,
    favourites: tuple[int, int],
) -> np.ndarray:
    """States `[n_users, max length]`: each user wanders among a few favourites drawn by `share`."""
    n_users, steps = len(length), int(length.max())
    # The smallest of exponential keys divided by the shares: a weighted draw without replacement.
    keys = rng.exponential(size=(n_users, len(share))) / share
    count = rng.integers(favourites[0], favourites[1] + 1, size=n_users)
    favourite = np.argsort(keys, axis=1, kind="stable")[:, : favourites[1]]
    slot = np.empty((n_users, steps), dtype=np.int64)
    slot[:, 0] = rng.integers(count)
    for step in range(1, steps):
        moved = (slot[:, step - 1] + rng.integers(1, np.maximum(count, 2))) % count
        slot[:, step] = np.where(rng.random(n_users) < stay, slot[:, step - 1], moved)
    return np.take_along_axis(favourite, slot, axis=1)


def _draw_items(
    rng: np.random.Generator,
    length: np.ndarray,
    warm_weight: np.ndarray,
    cold_weight: np.ndarray,
    visits_launch: np.ndarray,
    by_object: np.ndarray,
    objects: np.ndarray,
    by_topic: np.ndarray,
    topics: np.ndarray,
    by_cluster: np.ndarray,
) -> np.ndarray:
    """Draw the interactions of all users at once, step by step: items `[n_users, max length]`."""
    n_users, steps = objects.shape
    items = np.full((n_users, steps), -1, dtype=np.int64)
    seen = np.zeros((n_users, len(warm_weight)), dtype=bool)
    for step in range(steps):
        users = np.flatnonzero(length > step)
        at_launch = visits_launch[users] & (length[users] == step + 1)
        odds = by_cluster[users] * by_object[objects[users, step]] * by_topic[topics[users, step]]
        odds *= np.where(at_launch[:, None], cold_weight, warm_weight)
        odds[seen[users]] = 0.0
        reached = np.cumsum(odds, axis=1)
        drawn = rng.random(len(users)) * reached[:, -1]
        items[users, step] = np.argmax(reached > drawn[:, None], axis=1)
        seen[users, items[users, step]] = True
    return items


def _draw_times(
    rng: np.random.Generator, length: np.ndarray, visits_launch: np.ndarray, steps: int
) -> np.ndarray:
    """Unix seconds `[n_users, steps]`, never falling within a user, with a few equal neighbours.

    Two in three gaps lie within a sitting (seconds to minutes), the others span hours to weeks.
    All ends before the launch but the last row of the users who visit it.
    """
    shape = (len(length), steps)
    within = rng.integers(8, 240, size=shape)
    between = np.clip(rng.lognormal(np.log(1.5 * DAY), 1.2, size=shape), 1800, 60 * DAY)
    gaps = np.where(rng.random(shape) < 0.65, within, between.astype(np.int64))
    gaps[rng.random(shape) < 0.01] = 0
    gaps[:, 0] = 0
    since_start = np.cumsum(gaps, axis=1)
    span = np.take_along_axis(since_start, length[:, None] - 1, axis=1)
    end = LAUNCH - DAY - rng.integers(1, 300 * DAY, size=(len(length), 1))
    times = end - span + since_start
    visitors = np.flatnonzero(visits_launch)
    times[visitors, length[visitors] - 1] = LAUNCH + rng.integers(0, 14 * DAY, len(visitors))
    return times
