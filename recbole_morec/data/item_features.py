"""Categorical item features of RecBole's ``.item`` file, for stock models that read them.

A ``token`` field holds one category, a ``token_seq`` field several, separated by spaces. Numbers
are left out: stock models read only those that ``numerical_features`` names.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from recbole.utils import FeatureType
from torch import Tensor

from recbole_morec.data import _atomic_lines as lines
from recbole_morec.data.atomic import INTER_TYPES, read_header
from recbole_morec.errors import DataError

_KINDS = {"token": FeatureType.TOKEN, "token_seq": FeatureType.TOKEN_SEQ}


@dataclass(frozen=True)
class ItemFeatures:
    """Features by internal item id.

    Args:
        columns: field -> int64 ``[N]`` (token), or ``[N, S]`` padded on the right with 0
            (token_seq); 0 where an item has none.
        tokens: field -> categories by number, ``[PAD]`` first, in order of appearance.
        types: field -> RecBole's type.
    """

    columns: dict[str, Tensor] = field(default_factory=dict)
    tokens: dict[str, np.ndarray] = field(default_factory=dict)
    types: dict[str, FeatureType] = field(default_factory=dict)


def read_item_features(path: Path, item_field: str, item_tokens: np.ndarray) -> ItemFeatures:
    """Read a ``.item`` file; without one there are no features.

    Args:
        path: the file.
        item_field: name of the item column.
        item_tokens: original ids by internal id; rows of other items are passed over.

    Raises:
        DataError: the file is malformed, has no item column, or lists an item twice.
    """
    if not path.exists():
        return ItemFeatures()
    header = read_header(path, INTER_TYPES)
    lines.require_field(path, header, "item", item_field, "token")
    item_column = list(header).index(item_field)
    wanted = {
        name: (place, kind)
        for place, (name, kind) in enumerate(header.items())
        if kind in _KINDS and name != item_field
    }
    ids = {token: number for number, token in enumerate(item_tokens)}
    numbers: dict[str, dict[str, int]] = {name: {"[PAD]": 0} for name in wanted}
    found: dict[str, list[list[int]]] = {name: [[] for _ in item_tokens] for name in wanted}
    seen: set[str] = set()
    for line, text in lines.content_lines(path):
        cells = text.split("\t")
        if len(cells) != len(header):
            raise DataError(lines.wrong_columns(path, line, len(cells), len(header)))
        token = cells[item_column]
        if token in seen:
            raise DataError(
                f"{path} line {line}: the item {token!r} stands twice. Delete one line."
            )
        seen.add(token)
        if token not in ids:
            continue
        for name, (place, kind) in wanted.items():
            known = numbers[name]
            categories = cells[place].split(" ") if kind == "token_seq" else [cells[place]]
            found[name][ids[token]] = [known.setdefault(c, len(known)) for c in categories if c]
    return ItemFeatures(
        columns={name: _matrix(found[name], kind) for name, (_, kind) in wanted.items()},
        tokens={name: np.array(list(known), dtype=object) for name, known in numbers.items()},
        types={name: _KINDS[kind] for name, (_, kind) in wanted.items()},
    )


def _matrix(rows: list[list[int]], kind: str) -> Tensor:
    width = max(max(map(len, rows)), 1)
    matrix = torch.zeros(len(rows), width, dtype=torch.long)
    for number, row in enumerate(rows):
        matrix[number, : len(row)] = torch.tensor(row, dtype=torch.long)
    return matrix[:, 0] if kind == "token" else matrix
