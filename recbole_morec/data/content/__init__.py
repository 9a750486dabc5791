"""Item content for batches: what an item encoder needs, read from a dataset."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from recbole_morec.data.atomic import ContentTable
from recbole_morec.data.content.image_store import ImageStore
from recbole_morec.data.content.images import (
    BadImage,
    ImageFolderReader,
    UnreadableImagesError,
)
from recbole_morec.data.content.text_store import tokenizer_hash
from recbole_morec.data.content.texts import FieldsReader, TextReader, join_fields
from recbole_morec.errors import ConfigError, DataError, suggest
from recbole_morec.sizes import read_size

if TYPE_CHECKING:
    from recbole_morec.data.content.states import StateReader

__all__ = [
    "BadImage",
    "ContentReader",
    "ImageFolderReader",
    "ImageStore",
    "TextReader",
    "UnreadableImagesError",
    "open_content",
]

_SHOWN = 5
_MUCH_UNKNOWN = 0.2  # share of unknown tokens that is worth a warning
_CACHE = 2 * 2**30  # bytes of decoded images, unless a setting says how many
_CACHE_SHARE = 0.25  # of fit_memory
_log = logging.getLogger(__name__)


class ContentReader:
    """Joins the readers of the parts of an item's content.

    Args:
        readers: one :class:`ImageFolderReader`, :class:`TextReader` or :class:`StateReader` for
            each part of the content; none where item ids are enough.
    """

    def __init__(
        self, readers: Sequence[ImageFolderReader | TextReader | FieldsReader | StateReader] = ()
    ):
        self.readers = list(readers)
        keys = [key for reader in self.readers for key in reader.keys]
        if len(keys) != len(set(keys)):
            raise ConfigError("Item content has one reader of images and one of texts at most.")

    def fetch(self, items: np.ndarray) -> dict[str, Tensor]:
        """Return the content of items.

        Args:
            items: internal ids ``[n]``.

        Returns:
            ``items`` int64 ``[n]`` and, by reader, ``image`` uint8 ``[n, 3, H, W]``, ``text_ids``
            int64 ``[n, T]`` and ``text_mask`` bool ``[n, T]`` (``[n, F, T]`` of fields apart), or
            ``image_states [n, T, D]`` and ``image_states_mask [n, T]`` (``text_states``, ...).
        """
        items = np.asarray(items, dtype=np.int64)
        content = {"items": torch.from_numpy(items.copy())}
        for reader in self.readers:
            arrays = reader.fetch(items)
            arrays = arrays if isinstance(arrays, tuple) else (arrays,)
            for key, array in zip(reader.keys, arrays, strict=True):
                content[key] = array if isinstance(array, Tensor) else torch.from_numpy(array)
        return content

    @property
    def _images(self) -> list[ImageFolderReader]:
        return [reader for reader in self.readers if isinstance(reader, ImageFolderReader)]

    @property
    def cached_bytes(self) -> int:
        """Memory that decoded images take in this process."""
        return sum(reader.full_bytes for reader in self._images if reader.cached)

    @property
    def uncached_bytes(self) -> int:
        """Memory that images which are decoded where they are read would take."""
        return sum(reader.full_bytes for reader in self._images if not reader.cached)

    def prepare(self, progress: bool = False) -> None:
        """Look at all images before they are read, as :meth:`ImageFolderReader.prepare` does.

        Images that become grey change :meth:`identity`.

        Args:
            progress: show a progress bar.

        Raises:
            UnreadableImagesError: images are damaged and ``bad_images`` is ``error``.
        """
        for reader in self._images:
            reader.prepare(progress)

    def release(self) -> None:
        """Give back the memory of decoded images, which nothing is going to read."""
        for reader in self._images:
            reader.release()

    def decode_on_demand(self) -> None:
        """Give back the memory of decoded images for good: each is decoded where it is read."""
        for reader in self._images:
            reader.cache_bytes = 0
        self.release()

    def identity(self, items: np.ndarray) -> str:
        """A hash that changes where the content of these items does.

        Args:
            items: internal ids ``[n]``.
        """
        digest = hashlib.blake2b(digest_size=16)
        for reader in self.readers:
            for item in np.asarray(items).tolist():
                digest.update(reader.identity(item))
        return digest.hexdigest()


def open_content(dataset: Any, needs: Sequence[Any], config: Mapping[str, Any]) -> ContentReader:
    """Open the content that an item encoder needs; no image is read yet.

    Call :meth:`ContentReader.prepare` before many images are read.

    Args:
        dataset: offers ``item_tokens``, ``folder``, ``content`` and ``content_rows``.
        needs: ``ImageNeed`` and ``TextNeed`` objects, of which equal ones are read once, or a
            :class:`ContentReader` that has been opened already.
        config: the keys ``image_field``, ``bad_images``, ``image_cache_gb``, ``missing_content``,
            ``text_store`` and ``show_progress``; where ``image_cache_gb`` is ``None``, also
            ``fit_memory`` and ``device``.

    Raises:
        ConfigError: a field that does not exist or has another type; needs that contradict.
        DataError: no content file; items without content (``missing_content: error``); no item
            with a text; images that are missing (``bad_images: error``).
    """
    ready = [need for need in needs if isinstance(need, ContentReader)]
    needs = [need for need in needs if not isinstance(need, ContentReader)]
    if not needs:
        return ContentReader([reader for each in ready for reader in each.readers])
    table: ContentTable | None = dataset.content
    if table is None:
        raise DataError(
            f"{dataset.folder} has no .content file, but the item encoder reads item content. "
            "Convert the dataset with its items and images (recbole-morec convert --help), or set "
            "item_encoder: id."
        )
    image_need, text_need = _join_needs(needs)
    problems: list[str] = []
    image_field = _image_field(table, config["image_field"], problems) if image_need else None
    text_fields = _text_fields(table, text_need.fields, problems) if text_need else []
    if problems:
        raise ConfigError(problems)
    _check_missing(dataset, table, image_field, config["missing_content"])

    readers: list[ImageFolderReader | TextReader | FieldsReader] = []
    progress = bool(config["show_progress"])
    if image_need is not None:
        paths = _by_item(dataset.content_rows, table.columns[image_field])
        readers.append(_open_images(dataset, paths, image_need, config))
    if text_need is not None:
        columns = [_by_item(dataset.content_rows, table.columns[name]) for name in text_fields]
        _check_texts(dataset, columns, text_fields)
        store = bool(config["text_store"])
        readers.append(_open_texts(dataset, columns, text_fields, text_need, store, progress))
    return ContentReader(readers)


def _open_images(
    dataset: Any, paths: list[str | None], need: Any, config: Mapping[str, Any]
) -> ImageFolderReader:
    reader = ImageFolderReader(
        dataset.folder,
        paths,
        need.size,
        need.resize,
        config["bad_images"],
        _cache_bytes(config),
        dataset.item_tokens,
    )
    reader.check()
    return reader


def _cache_bytes(config: Mapping[str, Any]) -> int:
    """What decoded images may take; ``fit_memory`` counts them where it is about the host."""
    if config["image_cache_gb"] is not None:
        return int(config["image_cache_gb"] * 2**30)
    if config["fit_memory"] and config["device"].type == "cpu":
        return min(_CACHE, int(_CACHE_SHARE * read_size(config["fit_memory"])))
    return _CACHE


def _open_texts(
    dataset: Any,
    columns: list[list[str | None]],
    fields: Sequence[str],
    need: Any,
    store: bool,
    progress: bool,
) -> TextReader | FieldsReader:
    folder = Path(dataset.folder) if store else None
    made = FieldsReader if need.apart else TextReader
    texts = columns if need.apart else join_fields(columns)
    reader = made(need.tokenizer, texts, need.max_length, progress, folder)
    empty = [str(dataset.item_tokens[item]) for item in reader.empty_items]
    _log.info(
        "Texts (%s%s): %d items, %d cut at %d tokens, %d empty%s.",
        ", ".join(fields),
        ", each on its own" if need.apart else "",
        len(reader) - 1,
        reader.truncated,
        need.max_length,
        reader.empty,
        f" ({_first(empty)})" if empty else "",
    )
    if reader.unknown >= _MUCH_UNKNOWN:
        _log.warning(
            "Texts (%s): the tokenizer does not know %.0f%% of the tokens. Choose a text encoder "
            "of their language, or other text_fields.",
            ", ".join(fields),
            100 * reader.unknown,
        )
    return reader


# --- needs and fields ---------------------------------------------------------------------------


def _join_needs(needs: Sequence[Any]) -> tuple[Any | None, Any | None]:
    """Return the one need of images and the one of texts; a fusion's equal needs are one."""
    from recbole_morec.item_encoders.base import ImageNeed, TextNeed  # imports models, so late

    images = [need for need in needs if isinstance(need, ImageNeed)]
    texts = [need for need in needs if isinstance(need, TextNeed)]
    problems = []
    for other in images[1:]:
        if other != images[0]:
            problems.append(
                f"Two item encoders ask for different images: {images[0].size} pixels "
                f"({images[0].resize}) and {other.size} pixels ({other.resize}). Give both one "
                "image_size and one resize."
            )
    for other in texts[1:]:
        if not _same_text(texts[0], other):
            problems.append(
                "Two item encoders ask for different tokens. Give both one tokenizer, text_fields, "
                "text_fields_as and max_text_length."
            )
    if problems:
        raise ConfigError(problems)
    return (images[0] if images else None), (texts[0] if texts else None)


def _same_text(one: Any, other: Any) -> bool:
    if (one.fields, one.max_length, one.apart) != (other.fields, other.max_length, other.apart):
        return False
    if one.tokenizer is other.tokenizer:
        return True
    return tokenizer_hash(one.tokenizer) == tokenizer_hash(other.tokenizer)


def _image_field(table: ContentTable, name: str | None, problems: list[str]) -> str | None:
    if name is None:
        if table.image_fields:
            return table.image_fields[0]
        problems.append(
            f"The item encoder reads images, but the content file has no image field; it has "
            f"{_listed(table.fields)}. Convert the dataset with its images, or use a text encoder."
        )
        return None
    return name if _has_field(table, "image_field", name, ("image",), problems) else None


def _text_fields(
    table: ContentTable, names: Sequence[str] | None, problems: list[str]
) -> Sequence[str]:
    if names:
        return [
            n for n in names if _has_field(table, "text_fields", n, ("text", "token"), problems)
        ]
    if not table.text_fields:
        problems.append(
            f"The item encoder reads text, but the content file has no text field; it has "
            f"{_listed(table.fields)}. Convert the dataset with its texts, or use an image encoder."
        )
    return table.text_fields


def _has_field(
    table: ContentTable, key: str, name: str, kinds: Sequence[str], problems: list[str]
) -> bool:
    usable = [field for field, kind in table.fields.items() if kind in kinds]
    if name not in table.fields:
        problems.append(
            f'{key}: the content file has no field "{name}".{suggest(name, usable)} '
            f"It has {_listed(table.fields)}."
        )
        return False
    if table.fields[name] not in kinds:
        problems.append(
            f'{key}: the field "{name}" has the type {table.fields[name]}; needed is '
            f"{' or '.join(kinds)}. The content file has {_listed(table.fields)}."
        )
        return False
    return True


def _listed(fields: Mapping[str, str]) -> str:
    return ", ".join(f"{name}:{kind}" for name, kind in fields.items()) or "no fields"


# --- items --------------------------------------------------------------------------------------


def _by_item(rows: np.ndarray, column: Sequence[str | None]) -> list[str | None]:
    """Values by internal item id; id 0 and items without a row have none."""
    return [column[row] if item and row >= 0 else None for item, row in enumerate(rows.tolist())]


def _check_missing(dataset: Any, table: ContentTable, image_field: str | None, policy: str) -> None:
    rows = dataset.content_rows
    tokens = dataset.item_tokens
    found: list[tuple[str, list[str]]] = []
    without_row = [str(tokens[item]) for item in np.flatnonzero(rows < 0) if item > 0]
    if without_row:
        found.append(("no row in the content file", without_row))
    if image_field is not None:
        cover = table.columns[image_field]
        bare = [
            str(tokens[item])
            for item, row in enumerate(rows.tolist())
            if item and row >= 0 and cover[row] is None
        ]
        if bare:
            found.append((f'an empty image field "{image_field}"', bare))
    if not found:
        return
    total = len(tokens) - 1
    listed = "; ".join(
        f"{len(items)} of {total} items have {what} ({_first(items)})" for what, items in found
    )
    if policy != "blank":
        raise DataError(
            f"{dataset.folder}: {listed}. Add their content, leave these items out when "
            "converting, or set missing_content: blank to use a grey image and an empty text."
        )
    _log.warning("%s: they get a grey image and an empty text (missing_content: blank).", listed)


def _check_texts(
    dataset: Any, columns: Sequence[Sequence[str | None]], fields: Sequence[str]
) -> None:
    texts = join_fields(columns)
    if len(texts) > 1 and all(text is None for text in texts[1:]):
        named = ", ".join(f'"{name}"' for name in fields)
        file = getattr(dataset, "content_path", dataset.folder)
        raise DataError(
            f"{file}: all {len(texts) - 1} items have an empty text ({named}), so that a text "
            "encoder has nothing to read. Convert the dataset with its texts, name other "
            "text_fields, or use an image encoder."
        )


def _first(items: Sequence[str]) -> str:
    return ", ".join(items[:_SHOWN]) + (", ..." if len(items) > _SHOWN else "")
