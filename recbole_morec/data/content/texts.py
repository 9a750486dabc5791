"""Item texts: tokenised once, packed flat, padded per batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from tqdm.auto import tqdm

from recbole_morec.errors import ConfigError

_BATCH = 1024


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

    Attributes:
        empty_items: internal ids of items without a token of their own; they are read as the
            tokenizer's special tokens (``[CLS][SEP]``), or as one special token where it adds none
            by itself.
        truncated: number of items whose text was cut at ``max_length``.
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
        self.max_length = max_length
        self.pad_id = 0 if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)
        self.empty_items: list[int] = []
        self.truncated = 0
        self._tokenise(tokenizer, texts, special, progress)

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

    def _tokenise(
        self, tokenizer: Any, texts: Sequence[str | None], special: int, progress: bool
    ) -> None:
        bar = tqdm(
            total=len(texts),
            desc="texts",
            unit="item",
            disable=None if progress else True,  # None: only on a terminal
            leave=False,
        )
        parts: list[np.ndarray] = []
        lengths = np.zeros(len(texts), dtype=np.int64)
        with bar:
            for start in range(0, len(texts), _BATCH):
                batch = ["" if text is None else text for text in texts[start : start + _BATCH]]
                encoded = tokenizer(
                    batch,
                    truncation=True,
                    max_length=self.max_length,
                    padding=False,
                    return_attention_mask=False,
                    return_token_type_ids=False,
                )
                for row, encoding in enumerate(encoded.encodings, start=start):
                    ids = encoding.ids
                    if row > 0:
                        if len(ids) <= special:
                            self.empty_items.append(row)
                        self.truncated += bool(encoding.overflowing)
                    if not ids:
                        ids = [_only_token(tokenizer)]
                    lengths[row] = len(ids)
                    parts.append(np.array(ids, dtype=np.int32))
                bar.update(len(batch))
        self._ids = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int32)
        self._offsets = np.concatenate([[0], np.cumsum(lengths)])


def _only_token(tokenizer: Any) -> int:
    """The token that stands for an empty text where the tokenizer adds no special ones.

    A row without any token would leave attention and means without a term to read.
    """
    names = ("cls", "bos", "eos", "sep", "unk", "pad")
    ids = (getattr(tokenizer, f"{name}_token_id") for name in names)
    return next((int(token) for token in ids if token is not None), 0)
