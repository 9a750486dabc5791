"""A world for tests of state stores: numbers as content, and an encoder that counts."""

from __future__ import annotations

import numpy as np
import torch

from recbole_morec.data.content import ContentReader, state_source
from recbole_morec.data.content.state_making import stored_states

ITEMS = 1 + 50
CPU = torch.device("cpu")


class Numbers:
    """Content: a number per item."""

    keys = ("number",)

    def __init__(self):
        self.numbers = np.arange(ITEMS, dtype=np.float32)

    def fetch(self, items):
        return self.numbers[items]

    def identity(self, item):
        return str(self.numbers[item]).encode()


class Encoder:
    """Item i has 1 + i % 3 tokens of width 4 that hold its number; counts what it encodes."""

    def __init__(self):
        self.encoded = []

    def __call__(self, content):
        items = content["items"]
        self.encoded += items.tolist()
        states = content["number"][:, None, None] + torch.arange(3)[None, :, None] / 8
        return states.expand(-1, -1, 4), torch.arange(3)[None, :] < 1 + items[:, None] % 3


def make_world(tmp_path, monkeypatch):
    """A store of blocks of 16 items, since 51 are few; the blocks that were written are counted."""
    monkeypatch.setattr(state_source, "_TILE", 5)
    numbers, encoder = Numbers(), Encoder()

    def made(**options):
        encoder.encoded.clear()
        content = ContentReader([numbers])
        return stored_states(tmp_path / "s", ITEMS, content, encoder, device=CPU, **options)

    return made, numbers, encoder, tmp_path / "s"


def written(encoder):
    """Items that were encoded, without the trial of the first ones of them."""
    first = min(encoder.encoded)
    assert encoder.encoded[:8] == list(range(first, first + 8))
    return encoder.encoded[8:]


class Interrupted(Exception):
    pass
