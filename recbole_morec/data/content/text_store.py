"""The text store: token ids of all item texts, tokenised once and memory-mapped from then on.

A store is a folder ``<dataset folder>/prepared/texts-<key>/`` of ``ids.npy`` (int32, all texts one
after the other), ``offsets.npy`` (int64), ``empty.npy`` (items without a token of their own) and
``meta.json``. The key is a hash of all that decides the tokens: the tokenizer, the texts in the
order of the items, and the cut. Nothing is ever updated in place: another tokenizer, text, field,
language or length is another key, thus another store.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from recbole_morec.data.content.tokenise import PackedTexts, tokenise
from recbole_morec.data.file_sum import size_and_sum

FORMAT = 1
FOLDER = "prepared"
KEPT = 4  # stores of one dataset; the least recently used go first

_ARRAYS = ("ids", "offsets", "empty")
_log = logging.getLogger(__name__)


def stored_texts(
    folder: Path,
    tokenizer: Any,
    texts: Sequence[str | None],
    max_length: int,
    progress: bool = False,
) -> PackedTexts:
    """Return what :func:`tokenise` returns, from the text store of a dataset folder.

    The store is built if it is not there, and built anew if its files are not what was written.
    Of several processes one builds and the others open what it built. Where the folder cannot be
    written to, the texts are tokenised into memory.

    Args:
        folder: the dataset's folder.
        tokenizer, texts, max_length, progress: as for :func:`tokenise`.
    """
    facts = {
        "format": FORMAT,
        "tokenizer": tokenizer_hash(tokenizer),
        "texts": text_hash(texts),
        "items": len(texts),
        "max_length": max_length,
    }
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    store = Path(folder) / FOLDER / f"texts-{key}"
    packed = _open(store, facts)
    if packed is not None:
        return packed
    try:
        store.parent.mkdir(exist_ok=True)
        with _lock(store.parent / "texts.lock"):
            packed = _open(store, facts, report=True)  # another process may have built it meanwhile
            if packed is None:
                packed = tokenise(tokenizer, texts, max_length, progress)
                _write(store, packed, facts)
                packed = _open(store, facts) or packed  # mapped, in place of the copy in memory
                _log.info("Text store: %s written.", store)
                _remove_old(store)
    except (OSError, NotImplementedError) as error:  # the second: a file system without locks
        _log.warning(
            "Text store: %s cannot be written (%s), so the texts are tokenised at every start. "
            "Make the folder writable, or set text_store: false.",
            store,
            error,
        )
    return tokenise(tokenizer, texts, max_length, progress) if packed is None else packed


# --- keys ---------------------------------------------------------------------------------------


def tokenizer_hash(tokenizer: Any) -> str:
    """Hash of all that decides which tokens a fast tokenizer makes of a text."""
    import tokenizers
    import transformers

    state = tokenizer.backend_tokenizer.to_str()
    # What stands before are truncation and padding, which every call sets anew.
    head, mark, tail = state.partition('"added_tokens":')
    python_side = {
        "class": type(tokenizer).__qualname__,
        "special": {
            name: getattr(tokenizer, f"{name}_token_id")
            for name in ("cls", "bos", "eos", "sep", "unk", "pad", "mask")
        },
        "added": tokenizer.num_special_tokens_to_add(),
        "truncation_side": tokenizer.truncation_side,
        "split_special_tokens": getattr(tokenizer, "split_special_tokens", False),
        "versions": [tokenizers.__version__, transformers.__version__],
    }
    digest = hashlib.sha256(json.dumps(python_side, sort_keys=True).encode())
    digest.update((tail if mark else head).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def text_hash(texts: Sequence[str | None]) -> str:
    """Hash of texts and their order; a missing text is an empty one."""
    digest = hashlib.sha256()
    for start in range(0, len(texts), 8192):
        block = texts[start : start + 8192]
        block = [(text or "").encode("utf-8", "surrogatepass") for text in block]
        digest.update(np.array([len(text) for text in block], dtype="<i8").tobytes())
        digest.update(b"".join(block))
    return digest.hexdigest()


# --- reading ------------------------------------------------------------------------------------


def _open(store: Path, facts: dict[str, Any], report: bool = False) -> PackedTexts | None:
    """Open a store, or return ``None`` if there is none whose files are what was written."""
    if not os.path.lexists(store):
        return None
    try:
        packed = _read(store, facts)
        with contextlib.suppress(OSError):  # on a disk that cannot be written to
            os.utime(store / "meta.json")  # used just now
        return packed
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if report:
            _log.warning("Text store: %s is damaged (%s) and is built anew.", store, error)
        return None


def _read(store: Path, facts: dict[str, Any]) -> PackedTexts:
    meta = json.loads((store / "meta.json").read_text(encoding="utf-8"))
    for name, value in facts.items():
        if meta[name] != value:
            raise ValueError(f"meta.json says {name}: {meta[name]!r} instead of {value!r}")
    arrays = {}
    for name in _ARRAYS:
        path = store / f"{name}.npy"
        if size_and_sum(path) != meta["files"][path.name]:
            raise ValueError(f"{path.name} is not the file that was written")
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        arrays[name] = np.asarray(array)  # a plain view of the map
    return PackedTexts(**arrays, truncated=meta["truncated"], unknown=meta["unknown"])


# --- writing ------------------------------------------------------------------------------------


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _log.info("Text store: waiting for another process that tokenises (%s).", path)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _write(store: Path, packed: PackedTexts, facts: dict[str, Any]) -> None:
    """Write a store beside its place, then rename it: it is whole or absent."""
    temporary = _temporary(store)
    temporary.mkdir()
    try:
        meta = {**facts, "tokens": len(packed.ids), "empty": len(packed.empty)}
        meta |= {"truncated": packed.truncated, "unknown": packed.unknown, "files": {}}
        for name in _ARRAYS:
            path = temporary / f"{name}.npy"
            with path.open("wb") as file:
                np.save(file, getattr(packed, name), allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
            meta["files"][path.name] = size_and_sum(path)
        text = json.dumps(meta, indent=1) + "\n"
        (temporary / "meta.json").write_text(text, encoding="utf-8")
        if _open(store, facts) is None:  # else another process was first, where locks do nothing
            if os.path.lexists(store):
                _discard(store)
            temporary.rename(store)
    except OSError:
        if _open(store, facts) is None:  # else another process was first by a moment
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _remove_old(store: Path) -> None:
    """Remove what was used least recently, and what a killed process left half written."""
    for leftover in store.parent.glob(".texts-*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
    others = [path for path in store.parent.glob("texts-*/") if path.name != store.name]
    for old in sorted(others, key=_last_used, reverse=True)[KEPT - 1 :]:
        _discard(old)
        _log.info("Text store: %s removed; the %d used last are kept.", old, KEPT)


def _discard(path: Path) -> None:
    """Remove a file or folder; no reader ever sees half of it."""
    out_of_sight = _temporary(path)
    path.rename(out_of_sight)
    if out_of_sight.is_dir() and not out_of_sight.is_symlink():
        shutil.rmtree(out_of_sight, ignore_errors=True)
    else:
        out_of_sight.unlink()


def _temporary(store: Path) -> Path:
    return store.with_name(f".{store.name}.{uuid.uuid4().hex[:8]}.tmp")


def _last_used(store: Path) -> float:
    try:
        return (store / "meta.json").stat().st_mtime
    except OSError:
        return 0.0
