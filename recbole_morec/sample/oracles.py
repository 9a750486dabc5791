"""What an ideal recommender gets in the colour world, and what it gets when half blind.

An *ideal reader* knows the world's parameters (the odds, how often states stay, how favoured each
object and topic is), how popular every warm item is and its cluster (data would tell), and reads
the classes of covers and titles without error. It does not know the users' favourites, states or
clusters, nor popularity and clusters of cold items: it infers the former from the history by
filtering, and puts the mean in place of the latter. It knows the share of users who end with a
cold item, not which users do.

    full            reads covers and titles
    title_blind     reads covers only
    picture_blind   reads titles only
    content_blind   reads neither: popularity and clusters
    probe           title_blind, with covers read by a linear probe on their mean colour
    known_state     full, but told the user's true state at the last row of the history and the
                    user's cluster: an upper bound
    popularity      number of training interactions

What is not read is marginalised, in the history and in the candidates. All rank the whole
catalogue for each user's last item, with the user's history left out.

A reader spends its ten places where they pay most over all users. One that cannot tell topics
apart spends more of them on new items, which are the likelier ones within a cell; so title_blind
can find more of the cold targets than full does, but it ranks them lower (NDCG@10).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recbole_morec.sample.world import CELLS, CLUSTERS, TOPICS, World, match_odds, object_odds

# The filter's guess of where a state jumps to: mostly back to what the history has shown.
_JUMP_BACK = 0.6


@dataclass(frozen=True)
class Factor:
    """One part of the taste: a hidden state, and how likely each item is under it.

    Attributes:
        likelihood: relative to the item's weight, float64 `[states, n_items]`.
        share: prior of the states, float64 `[states]`.
        stay: probability that the state stays from one row to the next.
    """

    likelihood: np.ndarray
    share: np.ndarray
    stay: float


def object_factor(world: World, reading: np.ndarray | None = None) -> Factor:
    """The picture part; see `read_factor`. Classes are the cells."""
    share, stay = world.object_share, world.taste.stay_object
    return read_factor(world, object_odds(world.taste), world.cell, share, stay, reading)


def topic_factor(world: World, reading: np.ndarray | None = None) -> Factor:
    """The title part; see `read_factor`. Classes are the topics."""
    odds = match_odds(len(TOPICS), world.taste.topic)
    share, stay = world.topic_share, world.taste.stay_topic
    return read_factor(world, odds, world.topic, share, stay, reading)


def cluster_factor(world: World) -> Factor:
    """The part that no content shows: known for warm items, never for cold ones."""
    odds = match_odds(CLUSTERS, world.taste.cluster)
    reading = np.eye(CLUSTERS)[world.cluster]
    reading[world.cold] = 1 / CLUSTERS
    share = np.full(CLUSTERS, 1 / CLUSTERS)
    return read_factor(world, odds, world.cluster, share, 1.0, reading)


def read_factor(
    world: World,
    odds: np.ndarray,
    classes: np.ndarray,
    share: np.ndarray,
    stay: float,
    reading: np.ndarray | None,
) -> Factor:
    """Make a factor from what is read of the items.

    Args:
        odds: of a class (column) under a state (row), `[states, classes]`.
        classes: the true class of each item, `[n_items]`.
        share, stay: see `Factor`.
        reading: a distribution over the classes per item, `[n_items, classes]`; None reads right.

    A warm item's popularity is known from data, whatever is read of it: its likelihoods are scaled
    so that their mean over the states is the true one.
    """
    warm_weight = np.where(world.cold, 0.0, world.weight)
    true = odds[:, classes]
    true = true / (true @ warm_weight)[:, None]
    if reading is None:
        return Factor(true, share, stay)
    seen = odds @ reading.T
    seen = seen / (seen @ warm_weight)[:, None]
    scale = np.where(world.cold, 1.0, (share @ true) / (share @ seen))
    return Factor(seen * scale, share, stay)


def nothing_read(world: World, classes: int) -> np.ndarray:
    """The reading of the blind, `[n_items, classes]`."""
    return np.full((world.n_items, classes), 1 / classes)


def known_weight(world: World) -> np.ndarray:
    """Popularity weights as far as data can tell: those of cold items are their mean."""
    weight = world.weight.copy()
    weight[world.cold] = weight[world.cold].mean()
    return weight


def next_item_scores(world: World, factors: list[Factor]) -> np.ndarray:
    """Score of every item as each user's last one, float64 `[n_users, n_items]`.

    The factors are filtered one by one, as if independent given the history; history items score
    minus infinity.
    """
    scores = np.tile(known_weight(world), (world.n_users, 1))
    for factor in factors:
        scores *= _filtered(world, factor) @ factor.likelihood
    return _with_launch(world, scores)


def known_state_scores(world: World) -> np.ndarray:
    """As `next_item_scores`, told the true state at the last history row and the cluster."""
    before_last = world.offsets[1:] - 2
    scores = np.tile(known_weight(world), (world.n_users, 1))
    for factor, state in (
        (object_factor(world), world.objects[before_last]),
        (topic_factor(world), world.topics[before_last]),
        (cluster_factor(world), world.user_cluster),
    ):
        moved = (1 - factor.stay) * factor.share @ factor.likelihood
        scores *= factor.stay * factor.likelihood[state] + moved
    return _with_launch(world, scores)


def popularity_scores(world: World) -> np.ndarray:
    """Number of training interactions of each item (the rows but each user's last two)."""
    rows = np.ones(len(world.items), dtype=bool)
    rows[world.offsets[1:] - 1] = False
    rows[world.offsets[1:] - 2] = False
    counts = np.bincount(world.items[rows], minlength=world.n_items).astype(np.float64)
    return _without_history(world, np.tile(counts, (world.n_users, 1)))


def probe_reading(world: World, features: np.ndarray) -> np.ndarray:
    """What a linear probe makes of the covers: a distribution over cells, `[n_items, CELLS]`.

    Softmax regression from `features` (float64 `[n_items, f]`, such as each cover's mean colour)
    to the cells of the warm items, fitted by full-batch gradient descent with momentum.
    """
    warm = ~world.cold
    scaled = (features - features[warm].mean(0)) / (features[warm].std(0) + 1e-9)
    inputs = np.concatenate([scaled, np.ones((len(scaled), 1))], axis=1)
    wanted = np.eye(CELLS)[world.cell[warm]]
    solution = np.zeros((inputs.shape[1], CELLS))
    speed = np.zeros_like(solution)
    for _ in range(400):
        error = _softmax(inputs[warm] @ solution) - wanted
        gradient = inputs[warm].T @ error / warm.sum() + 1e-4 * solution
        speed = 0.9 * speed - 1.0 * gradient
        solution = solution + speed
    return _softmax(inputs @ solution)


def ranks_of_targets(world: World, scores: np.ndarray) -> np.ndarray:
    """Rank (1 = best) of each user's last item; equal scores are ordered by item number."""
    target = world.targets
    own = scores[np.arange(world.n_users), target][:, None]
    earlier = np.arange(world.n_items)[None] < target[:, None]
    return 1 + ((scores > own) | ((scores == own) & earlier)).sum(1)


def at_ten(world: World, scores: np.ndarray) -> dict[str, dict[str, float]]:
    """Recall@10 and NDCG@10 over all users, and over those with a warm and with a cold target."""
    ranks = ranks_of_targets(world, scores)
    hit = ranks <= 10
    gain = np.where(hit, 1 / np.log2(1 + ranks), 0.0)
    cold = world.cold[world.targets]
    groups = {"overall": np.ones_like(cold), "warm": ~cold, "cold": cold}
    return {
        name: {
            "recall@10": round(float(hit[group].mean()), 4),
            "ndcg@10": round(float(gain[group].mean()), 4),
        }
        for name, group in groups.items()
    }


def oracle_figures(world: World, mean_colours: np.ndarray) -> dict[str, dict]:
    """All figures of the module's docstring, `{name: {overall|warm|cold: {metric: value}}}`.

    Args:
        mean_colours: mean red, green and blue of each cover, float64 `[n_items, 3]`.
    """
    pictures, titles, clusters = object_factor(world), topic_factor(world), cluster_factor(world)
    no_pictures = object_factor(world, nothing_read(world, CELLS))
    no_titles = topic_factor(world, nothing_read(world, len(TOPICS)))
    probed = object_factor(world, probe_reading(world, mean_colours))
    scores = {
        "full": lambda: next_item_scores(world, [pictures, titles, clusters]),
        "title_blind": lambda: next_item_scores(world, [pictures, no_titles, clusters]),
        "picture_blind": lambda: next_item_scores(world, [no_pictures, titles, clusters]),
        "content_blind": lambda: next_item_scores(world, [no_pictures, no_titles, clusters]),
        "probe": lambda: next_item_scores(world, [probed, no_titles, clusters]),
        "known_state": lambda: known_state_scores(world),
        "popularity": lambda: popularity_scores(world),
    }
    return {name: at_ten(world, score()) for name, score in scores.items()}


def _filtered(world: World, factor: Factor) -> np.ndarray:
    """Distribution of the state at the last row, given the rows before, `[n_users, states]`."""
    history = np.diff(world.offsets) - 1
    expected = np.tile(factor.share, (world.n_users, 1))
    shown = np.zeros_like(expected)
    for step in range(int(history.max())):
        users = np.flatnonzero(history > step)
        items = world.items[world.offsets[users] + step]
        belief = expected[users] * factor.likelihood[:, items].T
        belief /= belief.sum(1, keepdims=True)
        shown[users] += belief
        back = shown[users] / (step + 1)
        jump = _JUMP_BACK * back + (1 - _JUMP_BACK) * factor.share
        expected[users] = factor.stay * belief + (1 - factor.stay) * jump
    return expected


def _with_launch(world: World, scores: np.ndarray) -> np.ndarray:
    """Mix the draw among warm items with the draw among cold ones by the share of cold users."""
    scores = _without_history(world, scores, value=0.0)
    share = world.taste.cold_users
    warm, cold = np.where(world.cold, 0.0, scores), np.where(world.cold, scores, 0.0)
    mixed = (1 - share) * warm / warm.sum(1, keepdims=True)
    mixed += share * cold / cold.sum(1, keepdims=True)
    return _without_history(world, mixed)


def _without_history(world: World, scores: np.ndarray, value: float = -np.inf) -> np.ndarray:
    history = np.ones(len(world.items), dtype=bool)
    history[world.offsets[1:] - 1] = False
    users = np.repeat(np.arange(world.n_users), np.diff(world.offsets))
    scores = scores.copy()
    scores[users[history], world.items[history]] = value
    return scores


def _softmax(logits: np.ndarray) -> np.ndarray:
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True)
