"""Randomness as a function of (seed, purpose, epoch, index): equal for any number of workers.

A counter is hashed with the SplitMix64 finaliser (Steele, Lea & Flood, OOPSLA 2014), so that every
draw can be made alone, in any process, in any order, and again after a resume.
"""

from __future__ import annotations

import hashlib

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def stream(seed: int, purpose: str, *counters: int) -> int:
    """A 63-bit key for one purpose; different purposes or counters never share a stream."""
    text = "/".join([str(seed), purpose, *map(str, counters)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def random_bits(key: int, *counters: np.ndarray) -> np.ndarray:
    """64 random bits for every element of the (broadcast) non-negative integer ``counters``."""
    with np.errstate(over="ignore"):
        state = np.uint64(key)
        for counter in counters:
            state = _mix(state + _GOLDEN * (np.asarray(counter).astype(np.uint64) + np.uint64(1)))
        return state


def random_integers(key: int, high: int, *counters: np.ndarray) -> np.ndarray:
    """Integers in ``[0, high)``, ``high < 2**32``, one for every element of the counters."""
    upper = random_bits(key, *counters) >> np.uint64(32)
    return ((upper * np.uint64(high)) >> np.uint64(32)).astype(np.int64)


def permutation(key: int, size: int) -> np.ndarray:
    """A permutation of ``range(size)``."""
    return np.random.Generator(np.random.PCG64(key)).permutation(size)


def token_order(tokens: np.ndarray, seed: int) -> np.ndarray:
    """Rank of every token in a seeded hash order: breaks ties without favouring any id."""
    salt = str(seed).encode()
    digests = [hashlib.blake2b(str(t).encode(), digest_size=8, salt=salt).digest() for t in tokens]
    hashes = np.array([int.from_bytes(digest, "little") for digest in digests], dtype=np.uint64)
    order = np.empty(len(tokens), dtype=np.int64)
    order[np.lexsort((np.asarray(tokens, dtype=str), hashes))] = np.arange(len(tokens))
    return order


def _mix(state: np.ndarray) -> np.ndarray:
    state = (state ^ (state >> np.uint64(30))) * _MIX_1
    state = (state ^ (state >> np.uint64(27))) * _MIX_2
    return state ^ (state >> np.uint64(31))
