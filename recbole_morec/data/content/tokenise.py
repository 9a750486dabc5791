"""Texts -> token ids, in batches, packed flat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from tqdm.auto import tqdm

_BATCH = 1024


@dataclass(frozen=True)
class PackedTexts:
    """Token ids of all texts, one after the other.

    Attributes:
        ids: int32 ``[tokens]``.
        offsets: int64 ``[N + 1]``; text ``i`` is ``ids[offsets[i]:offsets[i + 1]]``, never empty.
        empty: int64; which texts but the first have no token of their own.
        truncated: how many texts but the first were cut.
        unknown: how many tokens but those of the first text the tokenizer does not know.
    """

    ids: np.ndarray
    offsets: np.ndarray
    empty: np.ndarray
    truncated: int
    unknown: int


def tokenise(
    tokenizer: Any, texts: Sequence[str | None], max_length: int, progress: bool = False
) -> PackedTexts:
    """Tokenise texts; the first one is padding and is not counted.

    Args:
        tokenizer: a ``transformers`` fast tokenizer.
        texts: ``None`` reads as an empty text.
        max_length: tokens per text at most, special ones included.
        progress: show a progress bar.
    """
    special = tokenizer.num_special_tokens_to_add()
    parts: list[np.ndarray] = []  # one per batch
    lengths = np.zeros(len(texts), dtype=np.int64)
    empty: list[int] = []
    truncated = 0
    bar = tqdm(
        total=len(texts),
        desc="texts",
        unit="item",
        disable=None if progress else True,  # None: only on a terminal
        leave=False,
    )
    with bar:
        for start in range(0, len(texts), _BATCH):
            batch = ["" if text is None else text for text in texts[start : start + _BATCH]]
            encoded = tokenizer(
                batch,
                truncation=True,
                max_length=max_length,
                padding=False,
                return_attention_mask=False,
                return_token_type_ids=False,
            )
            rows = [encoding.ids for encoding in encoded.encodings]
            for row, (ids, encoding) in enumerate(zip(rows, encoded.encodings, strict=True), start):
                if row > 0:
                    if len(ids) <= special:
                        empty.append(row)
                    truncated += bool(encoding.overflowing)
                if not ids:
                    ids.append(_only_token(tokenizer))
                lengths[row] = len(ids)
            parts.append(np.fromiter(chain.from_iterable(rows), dtype=np.int32))
            bar.update(len(batch))
    ids = _joined(parts)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    own = ids[offsets[min(1, len(texts))] :]
    return PackedTexts(
        ids=ids,
        offsets=offsets,
        empty=np.array(empty, dtype=np.int64),
        truncated=truncated,
        unknown=int(np.count_nonzero(own == _unknown_token(tokenizer))),
    )


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    """Concatenate and let go of the parts, so that memory holds about one copy."""
    joined = np.empty(sum(len(part) for part in parts), dtype=np.int32)
    end = len(joined)
    while parts:
        part = parts.pop()
        joined[end - len(part) : end] = part
        end -= len(part)
    return joined


def _only_token(tokenizer: Any) -> int:
    """The token that stands for an empty text where the tokenizer adds no special ones.

    A row without any token would leave attention and means without a term to read.
    """
    names = ("cls", "bos", "eos", "sep", "unk", "pad")
    ids = (getattr(tokenizer, f"{name}_token_id") for name in names)
    return next((int(token) for token in ids if token is not None), 0)


def _unknown_token(tokenizer: Any) -> int:
    """The token that stands for nothing but what the tokenizer does not know, or -1."""
    unknown = tokenizer.unk_token_id
    others = (getattr(tokenizer, f"{name}_token_id") for name in ("cls", "bos", "eos", "sep"))
    return -1 if unknown is None or unknown in others else int(unknown)  # OPT: it starts every text
