"""The files of a state store: where they lie, how they are read in pieces, replaced and swept.

A folder holds ``store.json`` (how many items a block has) and for every block its values,
``block-000000.bin``, and a description, ``block-000000.json``.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from recbole_morec.data._atomic_lines import whole_file

_PIECE = 2**20  # bytes that are read at once
_ABANDONED_SECONDS = 24 * 3600


def layout_file(folder: Path) -> Path:
    return folder / "store.json"


def read_description(folder: Path, number: int) -> dict[str, Any]:
    return json.loads(description_file(folder, number).read_text(encoding="utf-8"))


def values_file(folder: Path, number: int) -> Path:
    return folder / f"block-{number:06d}.bin"


def description_file(folder: Path, number: int) -> Path:
    return folder / f"block-{number:06d}.json"


def numpy_dtype(dtype: str) -> type:
    """What numpy maps the values as; it lacks bfloat16."""
    return {"bf16": np.uint16, "fp16": np.float16, "fp32": np.float32}[dtype]


def read_block_size(folder: Path) -> int:
    """Items of a block; OSError, ValueError, KeyError or TypeError where it cannot be told."""
    block = json.loads(layout_file(folder).read_text(encoding="utf-8"))["block"]
    if not isinstance(block, int) or block < 1:
        raise ValueError(f"{layout_file(folder)}: block is {block!r}")
    return block


def checksum(file: Path) -> int:
    """CRC-32 of a file, read in pieces."""
    crc32, piece = 0, bytearray(_PIECE)
    with file.open("rb", buffering=0) as values:
        while size := values.readinto(piece):
            crc32 = zlib.crc32(memoryview(piece)[:size], crc32)
    return crc32


def replacing(file: Path) -> contextlib.AbstractContextManager[Path]:
    """A file that takes the place of ``file`` if all went well, and is removed if not; its name
    tells :func:`sweep` whose it is."""
    return whole_file(file, file.with_name(f"{file.name}.{_host()}-{os.getpid()}.partial"))


def sweep(folder: Path) -> None:
    """Remove what processes left that were killed while they wrote."""
    with contextlib.suppress(OSError):  # where nothing can be written, writing says so
        for partial in folder.glob("*.partial"):
            if _is_abandoned(partial):
                partial.unlink(missing_ok=True)


def _is_abandoned(partial: Path) -> bool:
    if time.time() - partial.stat().st_mtime > _ABANDONED_SECONDS:
        return True
    host, _, process = partial.name.split(".")[-2].partition("-")
    if host != _host() or not process.isdigit() or os.name != "posix":
        return False  # whether it runs cannot be told from here
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def _host() -> str:
    return f"{zlib.crc32(platform.node().encode()):08x}"
