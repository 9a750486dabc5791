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
