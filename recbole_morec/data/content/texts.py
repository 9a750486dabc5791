"""Item texts: tokenised once, packed flat, padded per batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from recbole_morec.data.content.text_store import stored_texts
from recbole_morec.data.content.tokenise import tokenise
from recbole_morec.errors import ConfigError


def join_fields(columns: Sequence[Sequence[str | None]], separator: str = " ") -> list[str | None]:
    """Join the fields of every item in the given order; missing fields leave no separator.

    Args:
        columns: one sequence of texts per field, equally long.
        separator: what stands between two fields.

    Returns:
        One text per item; ``None`` where all fields are missing or blank.
    """
    joined = []
    for texts in zip(*columns, strict=True):
        present = [text for text in texts if text is not None and text.strip()]
        joined.append(separator.join(present) if present else None)
    return joined


class TextReader:
    """Token ids of item texts.

    Args:
        tokenizer: a ``transformers`` fast tokenizer.
        texts: by internal item id; ``None`` is missing. Id 0 is padding and does not count.
        max_length: tokens per item at most, special ones included.
        progress: show a progress bar.
        folder: the dataset's folder, to keep the tokens in its text store
            (:func:`~recbole_morec.data.content.text_store.stored_texts`); ``None`` keeps them in
            memory only.

    Attributes:
        empty_items: internal ids of items without a token of their own; they are read as the
            tokenizer's special tokens (``[CLS][SEP]``), or as one special token where it adds none
            by itself.
        truncated: number of items whose text was cut at ``max_length``.
        unknown: share of the items' own tokens that the tokenizer does not know.
        pad_id: token id of padded places.

    Raises:
        ConfigError: ``max_length`` leaves no room for a token, or the tokenizer is not a fast one.
    """

    keys: ClassVar[tuple[str, ...]] = ("text_ids", "text_mask")

    def __init__(
        self,
        tokenizer: Any,
        texts: Sequence[str | None],
        max_length: int,
        progress: bool = False,
        folder: Path | None = None,
    ):
        if not getattr(tokenizer, "is_fast", False):
            raise ConfigError(
                f"tokenizer: {type(tokenizer).__name__} is not a fast tokenizer. Save it with "
                "transformers' AutoTokenizer, which writes a tokenizer.json."
            )
        special = tokenizer.num_special_tokens_to_add()
        if max_length <= special:
            raise ConfigError(
                f"max_text_length: {max_length} leaves no room for a token beside the tokenizer's "
                f"{special} special ones. Set at least {special + 1}."
            )
        if folder is None:
            packed = tokenise(tokenizer, texts, max_length, progress)
        else:
            packed = stored_texts(folder, tokenizer, texts, max_length, progress)
        self.max_length = max_length
        self.pad_id = 0 if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)
        self.empty_items: list[int] = packed.empty.tolist()
        self.truncated = packed.truncated
        self._ids, self._offsets = packed.ids, packed.offsets
        self.unknown = packed.unknown / max(1, int((self.lengths[1:] - special).sum()))

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @property
    def empty(self) -> int:
        """Number of items without a token of their own."""
        return len(self.empty_items)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens by internal item id, int64 ``[N]``."""
        return np.diff(self._offsets)

    def identity(self, item: int) -> bytes:
        """Bytes that change where the tokens of an item do."""
        start, stop = self._offsets[item], self._offsets[item + 1]
        return b"%d:" % (stop - start) + np.ascontiguousarray(self._ids[start:stop]).tobytes()

    def fetch(self, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the tokens of items, padded on the right to the longest of them.

        Args:
            items: internal ids, int64 ``[n]``.

        Returns:
            ids int64 ``[n, T]`` and mask bool ``[n, T]``, true for real tokens, ``T >= 1``.
        """
        starts = self._offsets[items]
        lengths = self._offsets[np.asarray(items) + 1] - starts
        places = np.arange(max(1, int(lengths.max(initial=0))))
        mask = places < lengths[:, None]
        ids = np.full(mask.shape, self.pad_id, dtype=np.int64)
        ids[mask] = self._ids[(starts[:, None] + places)[mask]]
        return ids, mask


class FieldsReader:
    """Token ids of several texts per item, each field tokenised on its own.

    The fields lie one after another in a single :class:`TextReader`, and so in one text store.

    Args:
        columns: the texts of each field by internal item id, equally long.
        tokenizer, max_length, progress, folder: as for :class:`TextReader`; ``max_length`` holds
            for each field.

    Attributes:
        empty_items: internal ids of items without a token in any field. A field without one is read
            as the tokenizer's special tokens, as IDvs.MoRec does.
        truncated: number of texts that were cut.
        unknown: share of tokens that the tokenizer does not know.
    """

    keys: ClassVar[tuple[str, ...]] = TextReader.keys

    def __init__(
        self,
        tokenizer: Any,
        columns: Sequence[Sequence[str | None]],
        max_length: int,
        progress: bool = False,
        folder: Path | None = None,
    ):
        self._items = len(columns[0])
        self._first = self._items * np.arange(len(columns))  # place of item 0 in each field
        texts = [text for column in columns for text in column]
        self._reader = TextReader(tokenizer, texts, max_length, progress, folder)
        self.truncated, self.unknown = self._reader.truncated, self._reader.unknown
        fields = np.bincount(
            np.asarray(self._reader.empty_items, dtype=np.int64) % self._items,
            minlength=self._items,
        )
        empty = np.flatnonzero(fields == len(columns))
        self.empty_items: list[int] = empty[empty > 0].tolist()

    def __len__(self) -> int:
        return self._items

    @property
    def empty(self) -> int:
        """Number of items without a token of their own."""
        return len(self.empty_items)

    def identity(self, item: int) -> bytes:
        """Bytes that change where the tokens of an item do."""
        return b";".join(self._reader.identity(first + item) for first in self._first.tolist())

    def fetch(self, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return ids int64 ``[n, F, T]`` and mask bool ``[n, F, T]`` of items ``[n]``."""
        rows = np.asarray(items, dtype=np.int64)[:, None] + self._first  # [n, F]
        ids, mask = self._reader.fetch(rows.ravel())
        shape = (*rows.shape, ids.shape[1])
        return ids.reshape(shape), mask.reshape(shape)
